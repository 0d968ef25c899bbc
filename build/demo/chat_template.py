"""The demo checkpoint's chat template: what Llama 3.1's writes, tools and tool results included.

A Jinja program of our own with the prompt sentences of Llama 3.1's template and the filters that
it uses; the ids of both are equal.
"""

from __future__ import annotations

CHAT_TEMPLATE = """\
{%- set date_string = date_string | default("26 Jul 2024") -%}
{%- macro turn(role) -%}
    {{- '<|start_header_id|>' ~ role ~ '<|end_header_id|>\\n\\n' -}}
{%- endmacro -%}
{%- set rest = messages -%}
{%- set system = '' -%}
{%- if rest[0]['role'] == 'system' -%}
    {%- set system = rest[0]['content'] | trim -%}
    {%- set rest = rest[1:] -%}
{%- endif -%}
{{- bos_token ~ turn('system') -}}
{%- if tools is not none -%}{{- 'Environment: ipython\\n' -}}{%- endif -%}
{{- 'Cutting Knowledge Date: December 2023\\nToday Date: ' ~ date_string ~ '\\n\\n' -}}
{{- system ~ '<|eot_id|>' -}}
{%- if tools is not none -%}
    {%- if not rest -%}{{- raise_exception('There is no message for the tools.') -}}{%- endif -%}
    {{- turn('user') -}}
    {{- 'Given the following functions, please respond with a JSON for a function call ' -}}
    {{- 'with its proper arguments that best answers the given prompt.\\n\\n' -}}
    {{- 'Respond in the format {"name": function name, "parameters": ' -}}
    {{- 'dictionary of argument name and its value}.Do not use variables.\\n\\n' -}}
    {%- for tool in tools -%}{{- (tool | tojson(indent=4)) ~ '\\n\\n' -}}{%- endfor -%}
    {{- (rest[0]['content'] | trim) ~ '<|eot_id|>' -}}
    {%- set rest = rest[1:] -%}
{%- endif -%}
{%- for message in rest -%}
    {%- if 'tool_calls' in message -%}
        {%- if message.tool_calls | length > 1 -%}{{- raise_exception('One call.') -}}{%- endif -%}
        {%- set call = message.tool_calls[0].function -%}
        {{- turn('assistant') ~ '{"name": "' ~ call.name ~ '", "parameters": ' -}}
        {{- (call.arguments | tojson) ~ '}' -}}
    {%- elif message.role in ('tool', 'ipython') -%}
        {%- set result = message.content -%}
        {%- if result is mapping or result is iterable -%}
            {%- set result = result | tojson -%}
        {%- endif -%}
        {{- turn('ipython') ~ result -}}
    {%- else -%}
        {{- turn(message.role) ~ (message.content | trim) -}}
    {%- endif -%}
    {{- '<|eot_id|>' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- turn('assistant') -}}{%- endif -%}
"""
