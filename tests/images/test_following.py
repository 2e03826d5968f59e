"""What is told of a build while the engine makes it, and what is kept of it."""

from __future__ import annotations

from typing import Any

from orchestrator.images.following import follow


def test_a_long_instruction_is_shortened_in_the_progress_and_kept_in_full() -> None:
    check = "HEALTHCHECK --interval=10s CMD [" + ", ".join(['"python"'] * 40) + "]"
    messages: list[dict[str, Any]] = [
        {"stream": f"Step 7/9 : {check}"},
        {"stream": "\n ---> Running in 0123456789ab\n"},
        {"stream": "\x1b[91mwarning\x1b[0m\n"},
        {"aux": {"ID": "sha256:12"}},
    ]
    told: list[str] = []
    built, failure, lines = follow(messages, told.append)
    assert (built, failure, list(lines)) == ("sha256:12", "", [f"Step 7/9 : {check}", "warning"])
    assert told[0].startswith("7 of 9: HEALTHCHECK --interval=10s CMD")
    assert told[0].endswith(" ...")
    assert max(map(len, told)) < 120
    assert told[1] == "7 of 9: warning"


def test_the_reason_of_a_failed_build_is_found() -> None:
    messages = [{"stream": "Step 1/9 : FROM a\n"}, {"error": "no such image"}]
    assert follow(messages, lambda _: None)[:2] == ("", "no such image")
