"""The libraries that tests/clients/ pins: their packages and versions, by the name of their directory."""

import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
CLIENTS = ROOT / "tests/clients"
# Where the name of a directory is not that of the package.
PACKAGES = {
    "arikawa": "github.com/diamondburned/arikawa/v3",
    "detritus": "detritus-client-socket",
    "discord.py": "discord-py",
    "discord4j": "discord4j-core",
    "discordeno": "@discordeno/gateway",
    "discordgo": "github.com/bwmarrin/discordgo",
    "discordjs-ws": "@discordjs/ws",
    "disgo": "github.com/disgoorg/disgo",
    "eris-etf": "eris",
    "interactions.py": "discord-py-interactions",
    "jda": "JDA",
    "kord": "kord-core-jvm",
    "twilight": "twilight-gateway",
}
# What a name in a table or heading says besides the package.
REMARKS = {"eris-etf": " with erlpack"}


def version(directory):
    """Package and pinned version of the library of a directory."""
    package = PACKAGES.get(directory.name, directory.name)
    name = re.escape(package)
    for file, pattern in [
        ("package.json", rf'"{name}": "([\d.]+)"'),
        ("requirements.txt", rf"(?m)^{name}==([\d.]+)"),
        ("Cargo.toml", rf'(?m)^{name} = {{ version = "=([\d.]+)"'),
        ("pom.xml", rf"(?i)<artifactId>{name}</artifactId>\s*<version>([\d.]+)</version>"),
        ("go.mod", rf"(?m)^(?:require )?\s*{name} v([\d.]+)"),
    ]:
        if (directory / file).exists():
            found = re.search(pattern, (directory / file).read_text())
            if found:
                return package, found[1]
    sys.exit(f"{sys.argv[0]}: {directory} pins no version of {package}")


def directories():
    """All directories with a bot."""
    return sorted(path for path in CLIENTS.iterdir() if path.is_dir() and path.name != "common")


def pinned():
    """Package and version of each library, by the name of its directory."""
    return {path.name: version(path) for path in directories()}
