"""The words that no name has, each with what the field says.

The word is a part of the name: `head_bytes` has `head`. An exception is a public name, or the field's own
word for something else.
"""

from tests.architecture import source

SAY = {
    "admission": "validation",
    "ailment": "failure",
    "ailments": "failures",
    "answer": "response",
    "answers": "responses",
    "asker": "client",
    "caller": "client",
    "callers": "clients",
    "chain": "pipeline",
    "chains": "pipelines",
    "cork": "coalesced",
    "corked": "coalesced",
    "crew": "control channel",
    "display": "progress",
    "door": "listener",
    "doors": "listeners",
    "head": "header",
    "heard": "received",
    "heeds": "handles",
    "held": "device tensor, reserved",
    "hurried": "forced",
    "judge": "reference classifier",
    "judged": "classified",
    "lane": "batcher",
    "lanes": "batchers",
    "pace": "latency estimate",
    "pieces": "slices",
    "plain": "fast PNG, text",
    "question": "broadcast",
    "questions": "broadcasts",
    "slots": "concurrency limit",
    "still": "default noise",
    "tally": "counter",
    "told": "message, field",
    "totals": "epoch metrics",
    "turn": "acceptor",
    "turns": "acceptors",
    "unwell": "failing",
    "wander": "random walk",
    "wanderer": "random walk",
    "wandering": "random walk",
}

# By word: the wing or the names that may have it.
EXCEPT = {
    # Of Markov: the trainer's samplers are, and the states that the service returns are of some.
    "chain": {"trainer"},
    "chains": {"trainer", "of_chains"},
    # The last layer of a network; the method HEAD; a public setting.
    "head": {"trainer", "HeadRequests", "head_requests", "max_head_bytes"},
    # Held-out images.
    "held": {"_held_out"},
    # A problem type, which is public.
    "unwell": {"Unwell"},
}


def misnamed() -> list[str]:
    """The names that have a word of the list, and what to say instead."""
    found = set()
    for name, place in source.names():
        for word in SAY.keys() & set(source.words(name)):
            if not EXCEPT.get(word, set()) & {name, place.split("/")[0]}:
                found.add(f"{place}: {name}: say {SAY[word]!r}, not {word!r}")
    return sorted(found)
