"""Conversations with tools and with reasoning, and chat templates of the two common kinds."""

from typing import Any

# Calls and answers in tags, as Hermes and Qwen write them, with the marks of `chat_rows`.
TOOLS = (
    "{% if tools %}{{ '^system\nYou may call:\n' }}{% for tool in tools %}{{ tool | tojson }}\n"
    "{% endfor %}{{ '~\n' }}{% endif %}"
    "{% for m in messages %}"
    "{% if m.role == 'tool' %}{{ '^user\n<tool_response>' + m.content + '</tool_response>~\n' }}"
    "{% else %}{{ '^' + m.role + '\n' + (m.content or '') }}"
    "{% for call in m.tool_calls or [] %}"
    """{{ '<tool_call>{"name": "' + call.function.name + '", "arguments": ' }}"""
    "{{ call.function.arguments | tojson }}{{ '}</tool_call>' }}"
    "{% endfor %}{{ '~\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '^assistant\n' }}{% endif %}"
)
# Reasoning in <think>; with enable_thinking=False the generation prompt has an empty one.
REASONING = (
    "{% for m in messages %}{{ '^' + m.role + '\n' }}"
    "{% if m.role == 'assistant' %}"
    "{{ '<think>\n' + (m.reasoning_content or '') + '\n</think>\n\n' }}{% endif %}"
    "{{ m.content + '~\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '^assistant\n' }}"
    "{% if enable_thinking is false %}{{ '<think>\n\n</think>\n\n' }}{% endif %}{% endif %}"
)

ADD = {
    "type": "function",
    "function": {
        "name": "add",
        "description": "The sum of two numbers.",
        "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}},
    },
}


def call(name: str = "add", arguments: Any = None, **more: Any) -> dict[str, Any]:
    """One tool call in OpenAI's form."""
    arguments = {"a": 2, "b": 3} if arguments is None else arguments
    return {"type": "function", "function": {"name": name, "arguments": arguments}, **more}


def tool_chat(*calls: dict[str, Any], content: Any = "") -> dict[str, Any]:
    """A question, a call (`call` by default), its result and the answer, with the tool's schema."""
    return {
        "messages": [
            {"role": "user", "content": "What is 2 + 3?"},
            {"role": "assistant", "content": content, "tool_calls": list(calls) or [call()]},
            {"role": "tool", "content": "5", "name": "add", "tool_call_id": "call_1"},
            {"role": "assistant", "content": "It is 5."},
        ],
        "tools": [ADD],
    }


def thought(*turns: tuple[str, str], **more: Any) -> dict[str, Any]:
    """A conversation in which each answer comes with its reasoning."""
    messages = []
    for reasoning, answer in turns:
        messages.append({"role": "user", "content": "And now?"})
        messages.append({"role": "assistant", "content": answer, "reasoning_content": reasoning})
    return {"messages": messages, **more}


def written(row: dict[str, Any], tokenizer: Any) -> str:
    """Return the text that transformers renders for the given row."""
    text: str = tokenizer.apply_chat_template(
        row["messages"],
        tools=row.get("tools"),
        tokenize=False,
        **row.get("chat_template_kwargs", {}),
    )
    return text
