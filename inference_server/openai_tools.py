"""Tools in a conversation: what the model is shown, what it must call, and earlier calls as its template wants them."""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from inference_server.engines.engine import ServedModel
from inference_server.errors import BadRequest
from inference_server.openai_schemas import ChatCompletionRequest, ChatMessage, NamedTool, Tool
from inference_server.tools import by_hand, grammar
from inference_server.tools.calls import CallReader
from inference_server.tools.channels import ChannelReader
from inference_server.tools.format import NoTools, ToolFormat


@dataclass(frozen=True, slots=True)
class ToolUse:
    """The tools of one request."""

    written: ToolFormat
    shown: tuple[Mapping[str, Any], ...]
    """As the chat template wants them."""
    schemas: Mapping[str, Mapping[str, Any]]
    most: int
    """Calls in an answer at most."""
    grammar: str = ""
    """What the answer must keep; empty leaves it to the model."""

    @property
    def kept(self) -> Collection[int]:
        """Tokens that must be seen in the answer's text to know a call."""
        return tuple(self.written.tokens.values())

    def reader(self) -> CallReader | ChannelReader:
        """For one answer."""
        if self.written.shape == "channels":
            return ChannelReader(known=self.schemas)
        return CallReader(self.written, schemas=self.schemas)


def use(request: ChatCompletionRequest, *, model: ServedModel) -> ToolUse | None:
    """The tools of this request; None where the model is to know of none, but for one whose every answer has to be read
    by its format. Raises BadRequest."""
    choice = request.tool_choice
    if not request.tools:
        if choice not in (None, "none", "auto"):
            raise BadRequest("tool_choice needs tools", param="tool_choice")
        return _none(model)
    schemas = {tool.function.name: tool.function.parameters or {} for tool in request.tools}
    if len(schemas) < len(request.tools):
        raise BadRequest("two tools have the same name", param="tools")
    if isinstance(choice, NamedTool) and choice.function.name not in schemas:
        raise BadRequest("tool_choice names a function that is not in tools", param="tool_choice")
    if choice == "none":
        return _none(model)
    if request.response_format and request.response_format.type != "text":
        raise BadRequest("response_format goes with tools only where tool_choice is none", param="response_format")
    if isinstance(written := model.tokenizer.tools, NoTools):
        raise BadRequest(written.reason, param="tools")
    one = request.parallel_tool_calls is False or isinstance(choice, NamedTool) or written.shape == "channels"
    most = 1 if one else grammar.MOST_CALLS
    return ToolUse(
        written, _shown(request.tools, written), schemas, most, _grammar(request, written, schemas, most=most)
    )


def _shown(tools: Sequence[Tool], written: ToolFormat) -> tuple[Mapping[str, Any], ...]:
    shown = [tool.model_dump(exclude_none=True) for tool in tools]
    if written.shape == "channels":  # its template cannot do without a description
        shown = [{**tool, "function": {"description": "", **tool["function"]}} for tool in shown]
    return tuple(shown)


def _none(model: ServedModel) -> ToolUse | None:
    written = model.tokenizer.tools
    in_channels = isinstance(written, ToolFormat) and written.shape == "channels"
    return ToolUse(written, (), {}, most=1) if isinstance(written, ToolFormat) and in_channels else None


def _grammar(
    request: ChatCompletionRequest, written: ToolFormat, schemas: Mapping[str, Mapping[str, Any]], *, most: int
) -> str:
    choice = request.tool_choice
    if isinstance(choice, NamedTool):
        name = choice.function.name
        return grammar.forced(written, {name: schemas[name]}, most=1)
    if choice == "required":
        return grammar.forced(written, schemas, most=most)
    strict = any(tool.function.strict for tool in request.tools or ())
    return grammar.forced(written, schemas, most=most, text_too=True) if strict else ""


def turns(
    messages: Sequence[ChatMessage], tools: Sequence[Mapping[str, Any]], *, model: ServedModel
) -> tuple[list[dict[str, Any]], Sequence[Mapping[str, Any]]]:
    """The messages and tools as the model's chat template wants them. Raises BadRequest."""
    names: dict[str, str] = {}
    made = [_turn(message, names, model=model) for message in messages]
    if not tools and not any(turn["role"] == "tool" or "tool_calls" in turn for turn in made):
        return made, tools
    written = model.tokenizer.tools
    if isinstance(written, NoTools) or written.by_hand == "nothing":
        return made, tools
    return by_hand.put(made, tools, written=written), tools if written.by_hand == "calls" else ()


def _turn(message: ChatMessage, names: dict[str, str], *, model: ServedModel) -> dict[str, Any]:
    """``names``: id → function of the calls so far."""
    turn: dict[str, Any] = {"role": message.role, "content": message.text()}
    if message.content is None and not message.tool_calls:
        raise BadRequest(f"messages: a message of the role {message.role!r} needs content", param="messages")
    if thought := message.reasoning or message.reasoning_content:  # under both names that templates have for it
        turn["reasoning_content"] = thought
        if not (message.tool_calls and message.text()):  # of which gpt-oss takes one
            turn["thinking"] = thought
    if message.tool_calls:
        turn["tool_calls"] = [_call(sent.id, sent.function, names, model=model) for sent in message.tool_calls]
    if message.role == "tool":
        if message.tool_call_id is None:
            raise BadRequest("messages: a tool's message needs tool_call_id", param="messages")
        turn["tool_call_id"] = message.tool_call_id
        turn["name"] = message.name or names.get(message.tool_call_id, "")
    return turn


def _call(number: str, function: Any, names: dict[str, str], *, model: ServedModel) -> dict[str, Any]:
    try:
        arguments = json.loads(function.arguments or "{}")
    except (ValueError, RecursionError):
        arguments = None
    if not isinstance(arguments, dict):
        raise BadRequest("messages: the arguments of a tool call are not a JSON object", param="messages")
    names[number] = function.name
    written = model.tokenizer.tools
    as_text = isinstance(written, ToolFormat) and written.arguments_as_text
    called = {"name": function.name, "arguments": json.dumps(arguments) if as_text else arguments}
    return {"id": number, "type": "function", "function": called}
