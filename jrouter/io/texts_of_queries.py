"""What is embedded of a query that a log holds as text, or as the messages of a chat."""

import json
from collections.abc import Callable
from typing import Any

from jrouter.encoders.errors import EncoderError
from jrouter.encoders.texts import last_turns


def messages_in(query: str) -> list[Any] | None:
    """Returns the messages that a JSON text holds, or None where it holds something else.

    >>> messages_in('[{"role": "user", "content": "Hi"}]'), messages_in("[1]"), messages_in("Hi")
    ([{'role': 'user', 'content': 'Hi'}], None, None)
    """
    if not query.lstrip().startswith("[") or '"role"' not in query:
        return None
    try:
        found = json.loads(query)
    except (ValueError, RecursionError):
        return None
    chat = isinstance(found, list) and found and all(isinstance(one, dict) and "role" in one for one in found)
    return found if chat else None


def text_of(query: str, text: Callable[[Any], str] | None) -> str:
    """Returns the text to embed of a query.

    Args:
      query: text, or JSON of the messages of a chat.
      text: given the text or the list of messages; None for the text itself, and of messages the last turn.

    Raises:
      EncoderError: there is none.

    >>> text_of('[{"role": "user", "content": "Hi"}]', None), text_of("Hi", None)
    ('Hi', 'Hi')
    """
    messages = messages_in(query)
    if text is None:
        made = query if messages is None else last_turns(messages, 1)
    else:
        made = text(query if messages is None else messages)
    if not isinstance(made, str) or not made.strip():
        raise EncoderError(f"expected text, got {made!r:.60}")
    return made
