"""Makes the test suite of Autobahn, which is of the time of Python 2, one that Python 3 can import. Setup runs it once, in the
environment that the suite was installed into.

What it promises: the cases send and expect the same octets as before. A string of Python 2 is a string of octets. Here it
becomes a string of the characters U+0000 to U+00FF, one for each octet, and fuzz.py turns these into octets, and back, where
the cases meet the WebSocket library. So what is changed is syntax, by the rules of 2to3, and the few places below. A place
that is not found where it is expected ends the setup.
"""

import importlib.util
import pathlib
import sys

from fissix import refactor

FIXERS = [
    f"fissix.fixes.fix_{name}"
    for name in ["dict", "except", "has_key", "import", "numliterals", "print", "raise", "unicode", "xrange"]
]

# In which file, once, is what replaced by what.
PLACES = [
    # A class that has `object` among its bases twice.
    ("case/case6_x_x.py", "(object, Case, )", "(Case, )"),
    ("case/case7_7_X.py", "(object, Case, )", "(Case, )"),
    ("case/case7_9_X.py", "(object, Case, )", "(Case, )"),
    ("case/case9_7_X.py", "(object, Case, )", "(Case, )"),
    # A case that is in no list of cases, and those of compression, which the proxy declines.
    ("case/__init__.py", "from .case9_9_1 import *\n", ""),
    ("case/__init__.py", "from .case12_x_x import *\n", ""),
    ("case/__init__.py", "Cases.extend(Case12_X_X)\n", ""),
    ("case/__init__.py", "Cases.extend(Case13_X_X)\n", ""),
    ("case/__init__.py", "CaseSubCategories.update(Case12_X_X_CaseSubCategories)\n", ""),
    ("case/__init__.py", "CaseSubCategories.update(Case13_X_X_CaseSubCategories)\n", ""),
    # A division of integers.
    ("case/case10_1_1.py", "len(self.payload) / self.p", "len(self.payload) // self.p"),
    # Equal events are equal, whichever way they would be pickled.
    ("case/case.py", "pickle.dumps(obj1) == pickle.dumps(obj2)", "obj1 == obj2"),
    # Arguments that the library has no more.
    ("fuzzing.py", "WebSocketClientFactory.__init__(self, debug = debug, debugCodePaths = debug)",
     "WebSocketClientFactory.__init__(self)"),
    # No case is run over TLS.
    ("fuzzing.py", "from twisted.internet import reactor, ssl", "from twisted.internet import reactor"),
    ("fuzzing.py", "ssl.ClientContextFactory()", "None"),
    # Only the fuzzing server finds files; and `binascii` on a line of its own, for what follows.
    ("fuzzing.py", "import os, json, binascii, time, textwrap, pkg_resources", "import os, json, time, textwrap\nimport binascii"),
    # Where a string of octets meets functions that want octets.
    ("case/case6_x_x.py", "from autobahn.websocket.utf8validator import", "from autobahntestsuite.octets import"),
]
# In all files.
BINASCII = ("import binascii", "from autobahntestsuite import octets as binascii")

OCTETS = '''"""Functions on octets, for strings of octets."""

import binascii

from autobahn.websocket import utf8validator


def encode(text):
   return text.encode("latin-1") if isinstance(text, str) else text


def decode(octets):
   return octets.decode("latin-1") if isinstance(octets, bytes) else octets


def b2a_hex(text):
   return binascii.b2a_hex(encode(text)).decode("ascii")


class Utf8Validator(utf8validator.Utf8Validator):
   def validate(self, text):
      return utf8validator.Utf8Validator.validate(self, encode(text))
'''


def main():
    # Found without being imported, which it can not be yet.
    package = pathlib.Path(importlib.util.find_spec("autobahntestsuite").origin).parent
    files = [package / "caseset.py", package / "fuzzing.py", *sorted((package / "case").glob("*.py"))]
    tool = refactor.RefactoringTool(FIXERS)
    for path in files:
        # Each octet of a source is one character, also where it is not ASCII: so it is in Python 2.
        text = path.read_bytes().decode("latin-1").replace("\r\n", "\n")
        text = str(tool.refactor_string(text + "\n", str(path)))
        for name, old, new in PLACES:
            if path == package / name:
                if text.count(old) != 1:
                    sys.exit(f"translate: {name} has not once: {old}")
                text = text.replace(old, new)
        text = text.replace(*BINASCII)
        path.write_text(text, encoding="utf-8")
    (package / "octets.py").write_text(OCTETS)
    # How reports look as HTML, which is not written.
    (package / "report.py").write_text('CSS_COMMON = CSS_DETAIL_REPORT = CSS_MASTER_REPORT = JS_MASTER_REPORT = ""\n')
    # Otherwise it imports everything else too.
    (package / "__init__.py").write_text("from ._version import __version__\n\nversion = __version__\n")


main()
