"""Hides passwords and tokens in what messages show of a file: people send messages to others, and machines log them."""

from __future__ import annotations

import re

__all__ = ["redacted"]

_URL = re.compile(r"(?<=://)(?:(?!,\s|:\s|\s#).)+")
"""What follows the scheme, to the end of the value at the latest: somebody may have written a space in a password."""
_WORD = re.compile(r"[^\s\"']+")
_USER = re.compile(r".*@(?!sha\d+:)")
"""What stands before a host, but not before the digest of an image."""
_QUERY = re.compile(r"(?<=\?)\S+")
_SHOWN = re.compile(r"[^\s\"']")
_LONGEST_NAME = 15
"""Characters of a user's name; tokens are longer."""


def redacted(text: str) -> str:
    """The text with a star for each character that may be of a secret, so that all others stay where they are.

    A secret is what stands in a URL before the host or behind the `?`, also where somebody has left out the scheme. The name of a
    user without a password stays, as in `git@git.example.com:team/deployments.git`.
    """
    if "@" not in text and "?" not in text:
        return text
    return _WORD.sub(_in_word, _URL.sub(_in_url, text))


def _in_url(match: re.Match[str]) -> str:
    return _hidden(match[0], names=match.string.endswith("ssh://", 0, match.start()))


def _in_word(match: re.Match[str]) -> str:
    return match[0] if "://" in match[0] else _hidden(match[0], names=True)


def _hidden(text: str, *, names: bool) -> str:
    """A URL without its scheme.

    Args:
        text: the URL, and what follows it.
        names: whether a name may stand before the host.
    """
    found = _USER.match(text)
    user = "" if found is None else found[0][:-1]
    if names and ":" not in user and len(user) <= _LONGEST_NAME:
        user = ""
    return _stars(user) + _QUERY.sub(lambda query: _stars(query[0]), text[len(user) :], count=1)


def _stars(text: str) -> str:
    return _SHOWN.sub("*", text)
