"""What proposes contexts: single changes led by what was seen, and a language model at a local address."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import numpy as np
import pytest

from ductile.contexts.candidate import candidate_of, context_of, named
from ductile.contexts.context import SEED, Context
from ductile.contexts.evidence import Evidence, restored_evidence
from ductile.contexts.reflectors import ChatModel, NothingNewError, Vocabulary
from ductile.ports import PolicyRef, Sampling
from ductile.problem import Problem
from tests.ductile.probes.fakes import COMPOSITION, FakeJudge, FakePool

FORMATS = ("trace", "running", "direct")
EXAMPLE = ("s34>1:", "3+4=7#7\n")


def fits(context: Context) -> bool:
    return True


def rng(seed: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(seed))


def vocabulary(evidence: Evidence, seed: int, fits: Any = fits, known: tuple[Context, ...] = (SEED,)) -> Vocabulary:
    return Vocabulary(FORMATS, evidence, fits, known, rng(seed))


def proposed(parent: Context, evidence: Evidence, seed: int, **options: Any) -> Context:
    known = options.pop("known", (SEED, parent))
    return context_of(vocabulary(evidence, seed, known=known, **options)(candidate_of(parent), {}, ["context"]))


def test_format_with_the_best_pass_rate_is_asked_for_first() -> None:
    evidence = Evidence(formats={"trace": (90, 100), "running": (10, 100), "direct": (15, 100)})
    first = Counter(proposed(SEED, evidence, seed).instruction for seed in range(40))
    assert first == {"[trace]": 40}


def test_format_that_was_never_seen_still_gets_its_turn() -> None:
    evidence = Evidence(formats={"trace": (5, 10)})
    assert {proposed(SEED, evidence, seed).instruction for seed in range(60)} == {"[trace]", "[running]", "[direct]"}


def test_a_proposal_changes_one_thing() -> None:
    evidence = Evidence(formats={"trace": (9, 10)}, examples={"trace": [EXAMPLE]})
    parent = named(Context("", "[trace]", (EXAMPLE,)))
    for seed in range(60):
        child = proposed(parent, evidence, seed)
        assert (child.instruction != "[trace]") + (child.examples != (EXAMPLE,)) == 1
        assert len(child.examples) in (0, 1, 2)


def test_examples_are_in_the_format_that_the_instruction_asks_for() -> None:
    shown = {"trace": [EXAMPLE], "direct": [("s34>1:", "#7\n")]}
    parent = named(Context("", "[direct]"))
    children = [proposed(parent, Evidence(examples=shown), seed) for seed in range(40)]
    assert {example for child in children for example in child.examples} == {("s34>1:", "#7\n")}


def test_nothing_is_proposed_twice_and_nothing_that_does_not_fit() -> None:
    propose = vocabulary(Evidence(), 0)
    names = []
    with pytest.raises(NothingNewError):
        while True:
            names.append(context_of(propose(candidate_of(SEED), {}, ["context"])).instruction)
    assert sorted(names) == ["[direct]", "[running]", "[trace]"]
    with pytest.raises(NothingNewError):
        proposed(SEED, Evidence(), 0, fits=lambda context: not context.instruction)


def test_evidence_keeps_short_right_answers_that_ended_and_counts_the_formats() -> None:
    texts = ["1 steps", "0 steps", "1 direct cut", "1 other", "? steps"]
    pool = FakePool(lambda problem, sample: texts[sample])
    problem = Problem("p", "d", 2, "s34>1:", "7")
    groups = pool.generate(PolicyRef(COMPOSITION, None, 0), [problem], Sampling(0, "s", 5, 9))
    evidence = Evidence()
    evidence.observe(problem, FakeJudge().judge(groups)[0])
    assert evidence.formats == {"steps": (1, 2), "direct": (1, 1)}
    assert evidence.examples == {"steps": [("s34>1:", "1 steps\n")]}
    assert restored_evidence(json.loads(json.dumps(evidence.snapshot()))) == evidence


@contextmanager
def server(answer: Any, status: int = 200, wait: float = 0.0) -> Iterator[tuple[str, list[Any]]]:
    """An OpenAI-compatible server on the loopback; yields its address and the requests that it got."""
    seen: list[Any] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            seen.append((self.path, self.headers.get("Authorization"), body))
            time.sleep(wait)
            text = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
            try:
                self.send_response(status)
                self.end_headers()
                self.wfile.write(text)
            except OSError:
                pass  # the client has gone

        def log_message(self, format: str, *arguments: Any) -> None:
            pass

    httpd = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{httpd.server_port}/v1", seen
    finally:
        httpd.shutdown()
        httpd.server_close()
        thread.join()


def reply(text: Any, tokens: int = 11) -> dict[str, Any]:
    return {"choices": [{"message": {"role": "assistant", "content": text}}], "usage": {"total_tokens": tokens}}


def test_chat_model_asks_the_address_with_the_key_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "k")
    with server(reply("hello")) as (url, seen):
        chat = ChatModel(url + "/", "wise")
        assert chat("improve it") == "hello"
        chat.require_answers()
    assert seen == [
        ("/v1/chat/completions", "Bearer k", {"model": "wise", "messages": [{"role": "user", "content": "improve it"}]})
    ]
    assert (chat.calls, chat.tokens, chat.failures) == (1, 11, 0)


def test_chat_model_sends_no_key_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with server(reply("hello")) as (url, seen):
        ChatModel(url, "wise")("improve it")
    assert seen[0][1] is None


@pytest.mark.parametrize(
    ("answer", "status"),
    [(b"<html>busy</html>", 200), ({"choices": []}, 200), (reply(None), 200), ([], 200), ({"error": "no"}, 500)],
)
def test_answer_that_is_none_is_a_failure_that_says_why(answer: Any, status: int) -> None:
    with server(answer, status) as (url, _):
        chat = ChatModel(url, "wise")
        with pytest.raises(ConnectionError, match="chat/completions: "):
            chat("improve it")
        with pytest.raises(RuntimeError, match=r"variant.reflector_url: none of 1 calls .* had an answer: .+"):
            chat.require_answers()


def test_slow_answer_is_a_failure() -> None:
    with server(reply("late"), wait=0.3) as (url, _):
        chat = ChatModel(url, "wise", timeout_s=0.05)
        with pytest.raises(ConnectionError, match="timed out"):
            chat("improve it")


def test_address_that_nobody_listens_at_is_a_failure() -> None:
    with server(reply("")) as (url, _):
        pass
    with pytest.raises(ConnectionError, match="refused"):
        ChatModel(url, "wise")("improve it")


def test_one_answer_is_enough_to_go_on() -> None:
    chat = ChatModel("http://127.0.0.1:9/v1", "wise")
    chat.calls, chat.failures = 3, 2
    chat.require_answers()


def test_key_is_not_sent_where_the_server_points_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "k")
    seen: list[str | None] = []

    class Elsewhere(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append(self.headers.get("Authorization"))
            self.send_error(404)

        def log_message(self, *arguments: Any) -> None:
            pass

    class Pointing(Elsewhere):
        def do_POST(self) -> None:
            seen.append(self.headers.get("Authorization"))
            self.send_response(302)
            self.send_header("Location", f"http://127.0.0.1:{elsewhere.server_port}/x")
            self.end_headers()

    with HTTPServer(("127.0.0.1", 0), Elsewhere) as elsewhere, HTTPServer(("127.0.0.1", 0), Pointing) as pointing:
        for each in (elsewhere, pointing):
            threading.Thread(target=each.serve_forever, daemon=True).start()
        with pytest.raises(ConnectionError):
            ChatModel(f"http://127.0.0.1:{pointing.server_port}", "wise")("improve it")
        for each in (elsewhere, pointing):
            each.shutdown()
    assert seen == ["Bearer k", None]
