"""From what a log holds to the text that is encoded: turns of a chat, the question of a few-shot prompt."""

import keyword
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from jrouter.encoders.errors import EncoderError

INSTRUCTIONS = ("system", "developer")
"""Roles whose messages are no turns: an application gives the same ones with every query."""
SPEAKERS = ("user", "human", "assistant", "ai", "bot", "chatbot", "model", "system")
"""Labels of a transcript. What was said before is what a question is about, and no solved example."""

SURROGATES = re.compile("[\ud800-\udfff]")
NAME = r"[^\W\d]\w*(?: [^\W\d]\w*){0,2}"
LABEL = re.compile(rf"^[ \t]*[#*>\-]*[ \t]*({NAME})[ \t]?\d*\**:", re.MULTILINE)
"""A line that begins as "Question:", "Q:", "### Input:" or "Problem 3:" do; its group is the name."""
CUE = re.compile(rf"(?:^|[.?!)\"'\]] +)((?:#+ )?{NAME}:)$|(?:^| )([-=]+>|→)$")
"""What may ask for an answer at the end of a line, alone on it or after a sentence: "Answer:"; or an arrow."""


class Texts(NamedTuple):
    """Texts that can be encoded.

    Attributes:
      texts: of valid Unicode.
      replaced: how many of them held lone surrogates, now U+FFFD.
    """

    texts: list[str]
    replaced: int


def valid_texts(texts: Sequence[str]) -> Texts:
    """Texts of valid Unicode: a lone surrogate, which has no UTF-8, becomes U+FFFD.

    Args:
      texts: [n]; an empty one stays empty.

    Raises:
      EncoderError: for what is not a string, by its row.

    >>> valid_texts(["caf\\ud83d", ""])
    Texts(texts=['caf�', ''], replaced=1)
    """
    if isinstance(texts, (str, bytes)):
        raise EncoderError(f"texts: expected a list of strings, got one {type(texts).__name__}; put it in a list")
    valid, replaced = list(texts), 0
    for row, text in enumerate(valid):
        if not isinstance(text, str):
            raise EncoderError(f"row {row}: expected a string, got {type(text).__name__}; drop or fill the row")
        if not text.isascii() and SURROGATES.search(text):
            valid[row], replaced = SURROGATES.sub("\ufffd", text), replaced + 1
    return Texts(valid, replaced)


def last_turns(messages: Sequence[Mapping[str, Any]], k: int) -> str:
    """The last k turns of a chat, as one text.

    A turn is a message with content of any role but system and developer. Messages of the assistant at the
    end are the answer, or its beginning, and no part of the query. One turn is its content alone, several
    are "role: content" with a blank line between. Of a content in parts, those of type "text" are joined by
    line breaks, and another part is its type in brackets, as "[image_url]".

    Args:
      messages: of the request, in the order of the chat: {"role": ..., "content": ...}.
      k: at least 1; a chat of fewer turns is taken whole.

    Raises:
      EncoderError: for a message of another form, by its number, and for a chat without a turn.

    >>> last_turns([{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}], 3)
    'Hi'
    """
    if k < 1:
        raise EncoderError(f"k: expected at least 1 turn, got {k}")
    if isinstance(messages, (str, bytes, Mapping)) or not isinstance(messages, Sequence):
        raise EncoderError(f"messages: expected a list of messages, got {type(messages).__name__}")
    turns = []
    for number, message in enumerate(messages):
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
            raise EncoderError(f"message {number}: expected an object with 'role' and 'content', got {message!r:.60}")
        content = _content(message.get("content"), number)
        if content and message["role"] not in INSTRUCTIONS:
            turns.append((message["role"], content))
    while turns and turns[-1][0] == "assistant":
        turns.pop()
    if not turns:
        raise EncoderError(f"messages: none of {len(messages)} is a turn with content that asks for an answer")
    window = turns[-k:]
    return window[0][1] if len(window) == 1 else "\n\n".join(f"{role}: {content}" for role, content in window)


def _content(content: Any, number: int) -> str:
    if content is None:  # of an assistant that calls a tool
        return ""
    if isinstance(content, str):
        return content
    if isinstance(content, Sequence) and all(isinstance(part, (str, Mapping)) for part in content):
        return "\n".join(_part(part, number) for part in content)
    raise EncoderError(f"message {number}: 'content' is {type(content).__name__}, expected a string or a list of parts")


def _part(part: str | Mapping[str, Any], number: int) -> str:
    if isinstance(part, str):
        return part
    kind = part.get("type", "text")
    if kind not in ("text", "input_text"):
        return f"[{kind}]"
    if not isinstance(part.get("text"), str):
        raise EncoderError(f"message {number}: a part of type {kind!r} has no string 'text'")
    return part["text"]


def last_question(prompt: str, *, min_examples: int = 2) -> str:
    """The question that a few-shot prompt ends with; any other prompt comes back whole.

    A prompt is few-shot where what asks for an answer at its end (its cue: "Answer:", "A:", "->", or a last
    line that begins with such a label) has been answered at least `min_examples` times before; or where it
    ends with an unanswered block of labels, as "Q: ... A: ... Q: ... A: ... Q: ...". The question begins
    after the last answer: at a label that also stands before the first answer ("Question:"), or else after
    the answer's first blank line, or else after its line. Lines at either end of it that stand in every
    example are the prompt's, and go with the cue. A transcript of speakers ("User:", "Assistant:") is whole.

    Args:
      prompt: text.
      min_examples: solved before the question, for a prompt to count as few-shot.

    >>> last_question("Q: 1+1?\\nA: 2\\n\\nQ: 2+2?\\nA: 4\\n\\nQ: 3+3?\\nA:")
    'Q: 3+3?'
    >>> last_question("great film -> good\\na bore -> bad\\nI left early ->")
    'I left early'
    """
    text = prompt.rstrip()
    cuts = _cues(text, min_examples)
    if not cuts:
        return _last_block(text, min_examples) or prompt
    # What stands before each cue: the first question with what introduces it, then answer and next question.
    spans = [text[start:stop] for (_, start), (stop, _) in pairwise([(0, 0), *cuts])]
    opening = _opening(spans)
    questions = [_after_answer(span, opening) for span in spans[1:]]
    if any(question is None for question in questions):
        return prompt
    examples = [{line.strip() for line in span.splitlines()} for span in spans[:-1]]
    return _without_common(str(questions[-1]), examples) or prompt


def _cues(text: str, min_examples: int) -> list[tuple[int, int]]:
    """(start, end) of every place of the cue that the text ends with; none where it is no few-shot prompt."""
    line = text[text.rfind("\n") + 1 :].strip()
    found = CUE.search(line)
    candidates = [found.group(1) or found.group(2)] if found else []
    if LABEL.match(line):  # "A: Let's think step by step."
        candidates.append(line)
    best: list[tuple[int, int]] = []
    for cue in candidates:
        if not _may_label(cue.strip("#*> ").split(":")[0].lower()):
            continue
        before = r"(?:^[ \t]*|(?<=[.?!)\"'\]] ))" if cue.endswith(":") and cue != line else r"(?<!\S)"
        places = [place.span(1) for place in re.finditer(f"{before}({re.escape(cue)})(?!\\S)", text, re.MULTILINE)]
        if len(places) > max(len(best), min_examples) and places[-1][1] == len(text):
            best = places
    return best


def _may_label(name: str) -> bool:
    """Whether a label, in lower case, may be one of examples: not a speaker's, nor a line of code as "else:"."""
    return name not in SPEAKERS and not keyword.iskeyword(name.split(" ")[0]) and name not in ("default", "public")


def _opening(spans: list[str]) -> str | None:
    """The name of the label that questions begin with: the first one that stands in all of them."""
    names = [[name.lower() for name in LABEL.findall(span)] for span in spans]
    everywhere = set(names[0]).intersection(*names[1:])
    # Of single letters, most label the options of a question.
    return next((name for name in names[0] if name in everywhere and (len(name) > 1 or name == "q")), None)


def _after_answer(span: str, opening: str | None) -> str | None:
    """What follows the answer that a span begins with; None where it begins with none."""
    if opening is not None:
        start = next(found.start() for found in LABEL.finditer(span) if found.group(1).lower() == opening)
        return span[start:] if span[:start].strip() else None
    body = span.lstrip(" \t").removeprefix("\n")
    end = re.search(r"\n[ \t]*\n", body) or re.search(r"\n", body)
    return body[end.end() :] if end and body[: end.start()].strip() else None


def _without_common(question: str, examples: list[set[str]]) -> str:
    """A question without the lines at its ends that stand in every example."""
    lines = question.strip().splitlines()

    def common(line: str) -> bool:
        return not line.strip() or all(line.strip() in example for example in examples)

    first = next((number for number, line in enumerate(lines) if not common(line)), None)
    if first is None:  # a question that is its own example
        return question.strip()
    last = max(number for number, line in enumerate(lines) if not common(line))
    return "\n".join(lines[first : last + 1]).strip()


def _last_block(text: str, min_examples: int) -> str | None:
    """The last block of a prompt that ends without a cue, where a label of all former blocks is missing in it."""
    # Capitals: those of YAML are small.
    labels = [(place.start(), place.group(1)) for place in LABEL.finditer(text) if place.group(1)[0].isupper()]
    counts = Counter(name for _, name in labels)
    opening = next((name for _, name in labels if counts[name] > min_examples), None)
    if opening is None:
        return None
    starts: list[int] = []
    blocks: list[set[str]] = []
    for start, name in labels:
        if name == opening:
            starts.append(start)
            blocks.append(set())
        elif blocks:
            blocks[-1].add(name)
    answers = set.intersection(*blocks[:-1]) - blocks[-1]
    if answers and all(_may_label(name.lower()) for name in (opening, *answers)):
        return text[starts[-1] :].strip()
    return None
