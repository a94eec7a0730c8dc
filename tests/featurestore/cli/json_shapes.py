"""The shapes of JSON that docs/cli.md shows, as JSON schemas."""

import json
import re
from pathlib import Path

from jsonschema import Draft202012Validator

PAGE = Path(__file__).resolve().parents[3] / "docs" / "cli.md"
_BLOCK = re.compile(r"^```ts\n(.*?)^```$", re.M | re.S)
_TOKEN = re.compile(r'"[^"]*"|\w+|\S')
_PRIMITIVES = ("string", "integer", "number", "boolean", "null")


def shapes():
    """Return the shape of each example (a command line) and the definitions of the named types."""
    examples, types = {}, {}
    for block in _BLOCK.findall(PAGE.read_text()):
        for command, text in re.findall(r"^// (featurestore .*)\n((?:(?!// ).*\n?)*)", block, re.M):
            examples[command] = _Parser(text).parse()
        for name, text in re.findall(r"^type (\w+) = ((?:(?!type ).*\n)*)", block, re.M):
            types[name] = _Parser(text).parse()
    return examples, types


def check_json(line, schema):
    """Fail where a line of JSON has not the shape of a schema, and say where."""
    validator = Draft202012Validator({**schema, "$defs": TYPES})
    errors = [f"{list(e.absolute_path)}: {e.message}" for e in validator.iter_errors(line)]
    assert not errors, "\n".join(errors)


def schema_of(command):
    """Return the schema of the first example of a command, such as `score` or `task add`."""
    return next(v for line, v in EXAMPLES.items() if line.startswith(f"featurestore {command} "))


class _Parser:
    """Reads a type as TypeScript writes it, but that no object has other keys."""

    def __init__(self, text):
        self.tokens = _TOKEN.findall(re.sub(r" *// .*", "", text))

    def parse(self):
        schema = self._union()
        assert not self.tokens, self.tokens
        return schema

    def _union(self):
        options = [self._array()]
        while self._take("|"):
            options.append(self._array())
        return options[0] if len(options) == 1 else {"anyOf": options}

    def _array(self):
        schema = self._item()
        while self._take("["):
            assert self._take("]")
            schema = {"type": "array", "items": schema}
        return schema

    def _item(self):
        token = self.tokens.pop(0)
        if token == "{":
            return self._object()
        if token.startswith('"'):
            return {"const": json.loads(token)}
        if token == "any":
            return {}
        return {"type": token} if token in _PRIMITIVES else {"$ref": f"#/$defs/{token}"}

    def _object(self):
        properties, required, others = {}, [], False
        while not self._take("}"):
            is_map = self._take("[")
            name = self.tokens.pop(0)
            assert is_map == self._take("]")
            is_optional = self._take("?")
            assert self._take(":"), name
            schema = self._union()
            if is_map:
                others = schema
            else:
                properties[name] = schema
                required += [] if is_optional else [name]
            assert self._take(",") or self.tokens[0] == "}", name
        return {
            "type": "object",
            "properties": properties,
            "required": required,
            "additionalProperties": others,
        }

    def _take(self, token):
        if self.tokens[:1] != [token]:
            return False
        self.tokens.pop(0)
        return True


EXAMPLES, TYPES = shapes()
