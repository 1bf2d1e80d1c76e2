"""Runs the fuzzing client of Autobahn's test suite (translated by translate.py).

    fuzz.py SPEC

SPEC is the file that `wstest -m fuzzingclient -s` reads. The reports are written as JSON.
"""

import json
import os
import sys
import traceback

import txaio

txaio.use_twisted()  # before the library is imported

from autobahntestsuite import fuzzing  # noqa: E402
from autobahntestsuite.octets import decode, encode  # noqa: E402
from twisted.internet import reactor  # noqa: E402

# How much longer than half a second, or one, an answer may take: the machine may be busy. No case needs to wait that long.
PATIENCE = 30


class Protocol(fuzzing.FuzzingClientProtocol):
    """Between the cases, whose strings are strings of octets, and the library, which wants octets."""

    def sendFrame(self, opcode, payload=b"", fin=True, rsv=0, mask=None, payload_len=None, chopsize=None, sync=False):
        super().sendFrame(opcode, encode(payload), fin, rsv, mask, payload_len, chopsize, sync)

    def sendMessage(self, payload, isBinary=False, fragmentSize=None, sync=False, doNotCompress=False):
        super().sendMessage(encode(payload), isBinary, fragmentSize, sync, doNotCompress)

    def sendMessageFrameData(self, payload, sync=False):
        return super().sendMessageFrameData(encode(payload), sync)

    def sendCloseFrame(self, code=None, reasonUtf8=None, isReply=False):
        super().sendCloseFrame(code, encode(reasonUtf8), isReply)
        self.localCloseReason = decode(self.localCloseReason)

    def killAfter(self, delay):
        super().killAfter(delay * PATIENCE)

    def closeAfter(self, delay):
        super().closeAfter(delay * PATIENCE)

    def failConnection(self, *arguments):
        self._fail_connection(*arguments)

    def onMessage(self, payload, isBinary):
        super().onMessage(decode(payload), isBinary)

    def onPong(self, payload):
        super().onPong(decode(payload))

    def logRxFrame(self, frameHeader, payload):
        super().logRxFrame(frameHeader, [decode(part) for part in payload])

    def logTxFrame(self, frameHeader, payload, repeatLength, chopsize, sync):
        super().logTxFrame(frameHeader, decode(payload), repeatLength, chopsize, sync)


class Factory(fuzzing.FuzzingClientFactory):
    def logCase(self, caseResults):
        super().logCase({key: decode(value) for key, value in caseResults.items()})

    def createReports(self, produceHtml=False, produceJson=True):
        try:
            super().createReports(produceHtml, produceJson)
        except BaseException:
            # Otherwise the reactor would go on without anything to do.
            traceback.print_exc()
            os._exit(1)


def text_of(data, maxlen=64, replace=False):
    """How the report shows a payload."""
    return repr(decode(data[:maxlen]))


fuzzing.FuzzingClientProtocol = Protocol
fuzzing.asciiLogData = text_of

with open(sys.argv[1], encoding="utf-8") as spec:
    Factory(json.load(spec))
reactor.run()
