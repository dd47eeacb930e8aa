"""Texts of queries: turns of a chat, questions of few-shot prompts, invalid Unicode."""

import time
from pathlib import Path

import pytest

from jrouter.encoders.errors import EncoderError
from jrouter.encoders.texts import last_question, last_turns, valid_texts

TABLE = Path(__file__).parents[2] / "shared" / "data" / "routerbench_3tasks.parquet"

CHAT = [
    {"role": "system", "content": "You are terse."},
    {"role": "user", "content": "Capital of France?"},
    {"role": "assistant", "content": "Paris."},
    {"role": "user", "content": [{"type": "text", "text": "And of this"}, {"type": "image_url"}, {"text": "country?"}]},
]


def test_last_turns_takes_a_window_and_labels_more_than_one_turn():
    last = "And of this\n[image_url]\ncountry?"
    assert last_turns(CHAT, 1) == last
    assert last_turns(CHAT, 2) == f"assistant: Paris.\n\nuser: {last}"
    assert last_turns(CHAT, 99) == f"user: Capital of France?\n\nassistant: Paris.\n\nuser: {last}"


def test_an_answer_at_the_end_of_a_chat_is_no_part_of_the_query():
    answered = [*CHAT, {"role": "assistant", "content": "I cannot see it."}]
    assert last_turns(answered, 3) == last_turns(CHAT, 3)
    called = [*CHAT, {"role": "assistant", "content": None, "tool_calls": []}, {"role": "tool", "content": "42"}]
    assert last_turns(called, 1) == "42"


@pytest.mark.parametrize(
    "messages,k,told",
    [
        (CHAT, 0, "k: expected at least 1"),
        ("Hi", 1, "messages: expected a list of messages, got str"),
        ([CHAT[1], "Hi"], 1, "message 1: expected an object with 'role' and 'content'"),
        ([CHAT[1], {"role": "user", "content": 3}], 1, "message 1: 'content' is int"),
        ([{"role": "user", "content": [{"type": "text", "text": None}]}], 1, "message 0: a part of type 'text'"),
        ([], 1, "none of 0 is a turn"),
        (CHAT[:1], 1, "none of 1 is a turn"),
        ([{"role": "assistant", "content": "Paris."}], 1, "none of 1 is a turn"),
    ],
)
def test_bad_messages_are_named(messages, k, told):
    with pytest.raises(EncoderError, match=told):
        last_turns(messages, k)


def test_lone_surrogates_are_replaced_and_counted():
    found = valid_texts(["plain", "a\ud800b\udfff", "", "naïve 🙂"])
    assert found.texts == ["plain", "a\ufffdb\ufffd", "", "naïve 🙂"] and found.replaced == 1
    "".join(found.texts).encode()  # raises where one is left


@pytest.mark.parametrize("bad", [None, 3, b"bytes", ["list"]])
def test_what_is_no_string_is_named_by_its_row(bad):
    with pytest.raises(EncoderError, match=f"row 1: expected a string, got {type(bad).__name__}"):
        valid_texts(["fine", bad])
    with pytest.raises(EncoderError, match="got one str; put it in a list"):
        valid_texts("one")


FEW_SHOT = {
    "labels on lines": ("Solve.\n\nQ: 1+1?\nA: 2\n\nQ: 2+2?\nA: 4\n\nQ: 3+3?\nA:", "Q: 3+3?"),
    "no blank lines": ("Q: 1+1?\nA: 2\nQ: 2+2?\nA: 4\nQ: 3+3?\nA:", "Q: 3+3?"),
    "answers of many paragraphs": (
        "Question: a?\nAnswer: First.\n\nThen.\n\nQuestion: b?\nAnswer: One.\n\nTwo.\n\nQuestion: c?\n\nMore?\nAnswer:",
        "Question: c?\n\nMore?",
    ),
    "a context before each question": (
        "Context: x\nQuestion: a?\nAnswer: 1\n\nContext: y\nQuestion: b?\nAnswer: 2\n\n"
        "Context: z\nQuestion: c?\nAnswer:",
        "Context: z\nQuestion: c?",
    ),
    "answers on lines of their own": (
        "What is a?\nAnswer:\nA\n\nWhat is b?\nAnswer:\nB\n\nWhat is c?\nAnswer:",
        "What is c?",
    ),
    "options with colons": (
        "Red?\nA: yes\nB: no\nAnswer: B\n\nBlue?\nA: yes\nB: no\nAnswer: A\n\nGreen?\nA: maybe\nB: no\nAnswer:",
        "Green?\nA: maybe",  # "B: no" stands in all examples
    ),
    "an instruction in each": (
        "Choose.\n\nRed?\nOne letter only. Answer:\nB\n\nChoose.\n\nBlue?\nOne letter only. Answer:\nA\n\n"
        "Choose.\n\nGreen?\nOne letter only. Answer:",
        "Green?",
    ),
    "headings": (
        "### Instruction:\nSort.\n\n### Response:\nDone.\n\n### Instruction:\nAdd.\n\n### Response:\n3\n\n"
        "### Instruction:\nPlot.\n\n### Response:\n",
        "Plot.",  # the heading stands in all examples
    ),
    "numbers and bold": (
        "**Problem 1:** a\n**Solution 1:** x\n\n**Problem 2:** b\n**Solution 2:** y\n\n**Problem 3:** c",
        "**Problem 3:** c",
    ),
    "the beginning of an answer": (
        "Q: a\nA: Step by step: x\nQ: b\nA: Step by step: y\nQ: c\nA: Step by step:",
        "Q: c",
    ),
    "arrows": ("fine film -> good\nbore -> bad\nI left ->", "I left"),
    "a last block without its label": ("Text: a\nLabel: 1\nText: b\nLabel: 2\nText: c d", "Text: c d"),
}
WHOLE = {
    "a question": "What is the capital of France?",
    "nothing": "",
    "white space": " \n",
    "one example": "Q: 1+1?\nA: 2\n\nQ: 3+3?\nA:",
    "an exam": "Question 1: a\nAnswer:\n\nQuestion 2: b\nAnswer:\n\nQuestion 3: c\nAnswer:",
    "a form": "Name:\n\nName:\n\nName:",
    "a transcript": "User: Hi\nAssistant: Hello\nUser: Why?\nAssistant: So.\nUser: Really?\nAssistant:",
    "a transcript that ends with a question": "Human: Hi\nAI: Hello\nHuman: Why?\nAI: So.\nHuman: Really?",
    "code": "if a:\n    x()\nelse:\n    y()\nif b:\n    x()\nelse:\n    y()\nif c:\n    x()\nelse:",
    "code with try": "try:\n    a()\nexcept E:\n    b()\ntry:\n    a()\nexcept E:\n    b()\ntry:\n    c()",
    "yaml": "- name: a\n  port: 1\n- name: b\n  port: 2\n- name: c\n",
    "a list": "Points:\n- one\n- two\n- three",
    "a poem": "Nevermore.\nOnce\nNevermore.\nTwice\nNevermore.",
}


@pytest.mark.parametrize("name", FEW_SHOT)
def test_the_question_of_a_few_shot_prompt_is_its_last_block(name):
    prompt, expected = FEW_SHOT[name]
    assert last_question(prompt) == expected
    assert last_question(prompt + "\n \n") == expected


@pytest.mark.parametrize("name", WHOLE)
def test_any_other_prompt_is_whole(name):
    assert last_question(WHOLE[name]) == WHOLE[name]


def test_one_example_counts_where_one_is_asked_for():
    assert last_question(WHOLE["one example"], min_examples=1) == "Q: 3+3?"
    assert last_question(FEW_SHOT["arrows"][0], min_examples=3) == FEW_SHOT["arrows"][0]


def test_long_texts_take_no_long_time():
    started = time.perf_counter()
    for long in (
        "word " * 100_000,
        "Q: a\nA: b\n" * 20_000 + "Q: c",
        "Name:\n" * 50_000,
        "a: " * 50_000,
        "#" * 200_000,
    ):
        last_question(long)
    assert time.perf_counter() - started < 10  # of a second, unless something is quadratic


@pytest.mark.skipif(not TABLE.is_file(), reason=f"{TABLE.name} is not here")
def test_the_questions_of_routerbench_prompts_are_found():
    pq = pytest.importorskip("pyarrow.parquet")
    rows = pq.read_table(TABLE, columns=["query", "question"]).to_pylist()
    found = [last_question(row["query"]) for row in rows]
    assert sum(one == row["question"] for one, row in zip(found, rows, strict=True)) == len(rows) == 3164
    assert len(set(found)) == 3162  # two questions repeat
    assert sum(one != row["query"] for one, row in zip(found, rows, strict=True)) == 1470 + 1267  # not mbpp's
