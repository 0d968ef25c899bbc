"""Chat templates of the field's families, small and written for these tests.

Each treats messages as its family's templates do: it examines, splits, trims, compares, slices and
counts them. The control tokens have the demo's reserved places in the vocabulary.
"""

from __future__ import annotations

CHATML = """\
{%- for message in messages -%}
    {{- '<|im_start|>' + message.role + '\\n' + (message.content or '') + '<|im_end|>' + '\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}
"""
R1_DISTILL = """\
{%- set ns = namespace(system='', first=true) -%}
{%- for message in messages if message['role'] == 'system' -%}
    {%- set ns.system = ns.system + ('' if ns.first else '\\n\\n') + message['content'] -%}
    {%- set ns.first = false -%}
{%- endfor -%}
{{- bos_token -}}{{- ns.system -}}
{%- for message in messages -%}
    {%- if message['role'] == 'user' -%}{{- '<|user|>' + message['content'] -}}{%- endif -%}
    {%- if message['role'] == 'assistant' and message['content'] -%}
        {%- set content = message['content'] -%}
        {%- if '</think>' in content -%}{%- set content = content.split('</think>')[-1] -%}{%- endif -%}
        {{- '<|assistant|>' + content + '<|end|>' -}}
    {%- endif -%}
    {%- for call in message['tool_calls'] or [] -%}
        {{- '<tool_call>' + call['function']['name'] + '\\n```json\\n' -}}
        {{- (call['function']['arguments'] | tojson) + '\\n```</tool_call>' -}}
    {%- endfor -%}
    {%- if message['role'] == 'tool' -%}{{- '<tool_call>' ~ message['content'] ~ '<|end|>' -}}{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|assistant|><think>\\n' -}}{%- endif -%}
{#- tools are not shown -#}
"""
QWEN3 = """\
{%- if tools -%}
    {{- '<|im_start|>system\\n' -}}
    {%- if messages[0].role == 'system' -%}{{- messages[0].content + '\\n\\n' -}}{%- endif -%}
    {{- "# Tools\\n<tools>" -}}
    {%- for tool in tools -%}{{- "\\n" -}}{{- tool | tojson -}}{%- endfor -%}
    {{- "\\n</tools>\\n<tool_call>\\n{\\"name\\": ...}\\n</tool_call><|im_end|>\\n" -}}
{%- elif messages[0].role == 'system' -%}
    {{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' -}}
{%- endif -%}
{%- set ns = namespace(multi_step_tool=true, last_query_index=messages|length - 1) -%}
{%- for message in messages[::-1] -%}
    {%- set index = (messages|length - 1) - loop.index0 -%}
    {%- if ns.multi_step_tool and message.role == "user" and message.content is string
        and not (message.content.startswith('<tool_response>')
                 and message.content.endswith('</tool_response>')) -%}
        {%- set ns.multi_step_tool = false -%}
        {%- set ns.last_query_index = index -%}
    {%- endif -%}
{%- endfor -%}
{%- for message in messages -%}
    {%- set content = message.content if message.content is string else '' -%}
    {%- if message.role == "user" or (message.role == "system" and not loop.first) -%}
        {{- '<|im_start|>' + message.role + '\\n' + content + '<|im_end|>' + '\\n' -}}
    {%- elif message.role == "assistant" -%}
        {%- set reasoning_content = '' -%}
        {%- if message.reasoning_content is string -%}
            {%- set reasoning_content = message.reasoning_content -%}
        {%- elif '</think>' in content -%}
            {%- set reasoning_content = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') -%}
            {%- set content = content.split('</think>')[-1].lstrip('\\n') -%}
        {%- endif -%}
        {%- if loop.index0 > ns.last_query_index and (loop.last or reasoning_content) -%}
            {{- '<|im_start|>' + message.role + '\\n<think>\\n' + reasoning_content.strip('\\n') -}}
            {{- '\\n</think>\\n\\n' + content.lstrip('\\n') -}}
        {%- else -%}
            {{- '<|im_start|>' + message.role + '\\n' + content -}}
        {%- endif -%}
        {%- for tool_call in message.tool_calls or [] -%}
            {%- if (loop.first and content) or not loop.first -%}{{- '\\n' -}}{%- endif -%}
            {%- set tool_call = tool_call.function or tool_call -%}
            {{- '<tool_call>\\n{"name": "' + tool_call.name + '", "arguments": ' -}}
            {%- if tool_call.arguments is string -%}
                {{- tool_call.arguments -}}
            {%- else -%}
                {{- tool_call.arguments | tojson -}}
            {%- endif -%}
            {{- '}\\n</tool_call>' -}}
        {%- endfor -%}
        {{- '<|im_end|>\\n' -}}
    {%- elif message.role == "tool" -%}
        {%- if loop.first or (messages[loop.index0 - 1].role != "tool") -%}
            {{- '<|im_start|>user' -}}
        {%- endif -%}
        {{- '\\n<tool_response>\\n' + content + '\\n</tool_response>' -}}
        {%- if loop.last or (messages[loop.index0 + 1].role != "tool") -%}
            {{- '<|im_end|>\\n' -}}
        {%- endif -%}
    {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}
"""
MISTRAL = """\
{%- if messages[0]['role'] == 'system' -%}
    {%- set system_message = messages[0]['content'] -%}{%- set loop_messages = messages[1:] -%}
{%- else -%}{%- set loop_messages = messages -%}{%- endif -%}
{%- set user_messages = loop_messages | selectattr('role', 'equalto', 'user') | list -%}
{{- bos_token -}}
{%- for message in loop_messages -%}
    {%- if message['role'] == 'user' -%}
        {%- if tools and message == user_messages[-1] -%}
            {{- '[AVAILABLE_TOOLS] [' -}}
            {%- for tool in tools -%}
                {{- '{"type": "function", "function": {' -}}
                {%- for key, val in tool.function.items() if key != 'return' -%}
                    {%- if val is string -%}{{- '"' + key + '": "' + val + '"' -}}
                    {%- else -%}{{- '"' + key + '": ' + val | tojson -}}{%- endif -%}
                    {%- if not loop.last -%}{{- ', ' -}}{%- endif -%}
                {%- endfor -%}
                {{- '}}' -}}{%- if not loop.last -%}{{- ', ' -}}{%- endif -%}
            {%- endfor -%}
            {{- '][/AVAILABLE_TOOLS]' -}}
        {%- endif -%}
        {%- if loop.last and system_message is defined -%}
            {{- '[INST] ' + system_message + '\\n\\n' + message['content'] + '[/INST]' -}}
        {%- else -%}{{- '[INST] ' + message['content'] + '[/INST]' -}}{%- endif -%}
    {%- elif message.tool_calls is defined and message.tool_calls is not none -%}
        {{- '[TOOL_CALLS] [' -}}
        {%- for tool_call in message.tool_calls -%}
            {%- set out = tool_call.function | tojson -%}{{- out[:-1] -}}
            {%- if tool_call.id is defined -%}{{- ', "id": "' + tool_call.id[-9:] + '"' -}}{%- endif -%}
            {{- '}' -}}{%- if not loop.last -%}{{- ', ' -}}{%- endif -%}
        {%- endfor -%}
        {{- ']' + eos_token -}}
    {%- elif message['role'] == 'assistant' -%}{{- ' ' + message['content'] | trim + eos_token -}}
    {%- elif message['role'] in ('tool', 'ipython') -%}
        {{- '[TOOL_RESULTS] {"content": ' + message.content | string + '}[/TOOL_RESULTS]' -}}
    {%- endif -%}
{%- endfor -%}
"""
GEMMA = """\
{{ bos_token }}
{%- if messages[0]['role'] == 'system' -%}
    {%- set first_user_prefix = messages[0]['content'] + '\\n\\n' -%}
    {%- set loop_messages = messages[1:] -%}
{%- else -%}{%- set first_user_prefix = "" -%}{%- set loop_messages = messages -%}{%- endif -%}
{%- for message in loop_messages -%}
    {%- set role = 'model' if message['role'] == 'assistant' else message['role'] -%}
    {{ '<start_of_turn>' + role + '\\n' + (first_user_prefix if loop.first else "") }}
    {%- if message['content'] is string -%}{{ message['content'] | trim }}
    {%- elif message['content'] is iterable -%}{{ 'parts' }}{%- endif -%}
    {{ '<end_of_turn>\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<start_of_turn>model\\n' }}{%- endif -%}
"""
PHI = """\
{%- for message in messages -%}
    {{- '<|' + message['role'] + '|>' -}}
    {%- if message['role'] == 'system' and tools is not none -%}
        {{- message['content'] + '<|tool|>' + (tools | tojson(sort_keys=true)) + '<|/tool|>' -}}
    {%- else -%}{{- message['content'] -}}{%- endif -%}
    {{- '<|end|>' -}}
{%- endfor -%}
{{- '<|assistant|>' if add_generation_prompt else eos_token -}}
"""
GRANITE = """\
{%- macro turn(role, text) -%}
<|start_of_role|>{{ role }}<|end_of_role|>{{ text }}<|end_of_text|>
{%- endmacro -%}
{%- if messages[0]['role'] == 'system' -%}
    {%- set system_message = messages[0]['content'] -%}{%- set messages = messages[1:] -%}
{%- else -%}
    {%- set system_message -%}Today is {{ strftime_now('%B %d, %Y') }}.{%- endset -%}
{%- endif -%}
{{- turn('system', system_message) -}}
{%- if tools -%}{{- turn('available_tools', tools | tojson(indent=4)) -}}{%- endif -%}
{%- for message in messages -%}
    {%- set text -%}{%- filter trim -%}{{ message.content }}{%- endfilter -%}{%- endset -%}
    {{- '\\n' ~ turn(message.role, text if text | length else 'nothing') -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|start_of_role|>assistant<|end_of_role|>' -}}{%- endif -%}
"""
HERMES_TOOLS = """\
{%- macro type_of(spec) -%}
    {%- set basic = {"string": "str", "number": "float", "object": "dict"} -%}
    {%- if basic[spec.type] is defined -%}{{- basic[spec.type] -}}
    {%- elif spec.type is string -%}{{- spec.type | upper | replace('_', ' ') -}}
    {%- else -%}{{- "Any" -}}{%- endif -%}
{%- endmacro -%}
{{- bos_token + '<|im_start|>system\\n<tools> ' -}}
{%- for tool in tools or [] -%}
    {%- set tool = tool.function if tool.function is defined else tool -%}
    {{- '{"name": "' + tool.name + '", "description": "' + tool.name + '(' -}}
    {%- for name, fields in (tool.parameters.properties or {}) | dictsort -%}
        {{- name + ": " + type_of(fields) -}}{%- if not loop.last -%}{{- ", " -}}{%- endif -%}
    {%- endfor -%}
    {{- ')' -}}{%- if tool.description -%}{{- ' - ' + tool.description | indent(2) -}}{%- endif -%}
    {{- '"}\\n' -}}
{%- endfor -%}
{{- ' </tools><|im_end|>\\n' -}}
{%- for message in messages -%}
    {%- if message.role == "assistant" and message.tool_calls is defined -%}
        {{- '<|im_start|>' + message.role -}}
        {%- for tool_call in message.tool_calls -%}
            {{- '\\n<tool_call>\\n' -}}
            {%- set call = tool_call.function -%}
            {{- '{"name": "%s", "arguments": %s}' % (call.name, call.arguments | tojson) -}}
            {{- '\\n</tool_call>' -}}
        {%- endfor -%}
        {{- '<|im_end|>\\n' -}}
    {%- else -%}
        {{- '<|im_start|>{}\\n{}<|im_end|>\\n'.format(message.role, message.content) -}}
    {%- endif -%}
{%- endfor -%}
"""
COMMAND_R = """\
{{- bos_token -}}
{%- for message in messages -%}
    {%- set content = message['content'] -%}
    {%- if content is string and content.strip().upper().startswith('SYSTEM:') -%}
        {%- set content = content.partition(':')[2] | capitalize -%}
    {%- endif -%}
    {{- '<|START_OF_TURN_TOKEN|>' ~ '<|' ~ (message['role'] | upper) ~ '_TOKEN|>' -}}
    {{- content.splitlines() | map('trim') | reject('equalto', '') | join('\\n') -}}
    {{- '<|END_OF_TURN_TOKEN|>' -}}
{%- endfor -%}
"""
GPT_OSS = """\
{%- macro typed(spec) -%}
    {%- if spec.enum -%}{{- '"' + spec.enum | join('" | "') + '"' -}}
    {%- elif spec.type == "array" -%}{{- typed(spec['items']) + "[]" -}}
    {%- else -%}{{- spec.type or "any" -}}{%- endif -%}
{%- endmacro -%}
{{- "<|start|>system<|message|>Knowledge cutoff: 2024-06<|end|>" -}}
{%- if tools -%}
    {{- "<|start|>developer<|message|># Tools\\n" -}}
    {%- for tool in tools -%}
        {{- "// " + (tool.function.description or '') + "\\ntype " + tool.function.name + " = (_: {\\n" -}}
        {%- for name, spec in (tool.function.parameters.properties or {}).items() -%}
            {{- name + ": " + typed(spec) + ",\\n" -}}
        {%- endfor -%}
        {{- "}) => any;\\n" -}}
    {%- endfor -%}
    {{- "<|end|>" -}}
{%- endif -%}
{%- set last_call = namespace(name=none) -%}
{%- for message in messages -%}
    {%- if message.role == 'assistant' -%}
        {%- if "<|channel|>" in (message.content or '') or "<|channel|>" in (message.thinking or '') -%}
            {{- raise_exception("You have passed a message with a channel tag.") -}}
        {%- endif -%}
        {%- if message.thinking is defined and loop.last -%}
            {{- "<|start|>assistant<|channel|>analysis<|message|>" + message.thinking + "<|end|>" -}}
        {%- endif -%}
        {%- if message.tool_calls -%}
            {%- set call = message.tool_calls[0].function -%}
            {{- "<|start|>assistant to=functions." + call.name + "<|channel|>commentary json<|message|>" -}}
            {{- call.arguments if call.arguments is string else call.arguments | tojson -}}
            {{- "<|call|>" -}}{%- set last_call.name = call.name -%}
        {%- else -%}
            {{- "<|start|>assistant<|channel|>final<|message|>" + message.content + "<|end|>" -}}
        {%- endif -%}
    {%- elif message.role == 'tool' -%}
        {%- if last_call.name is none -%}{{- raise_exception("A result without a call.") -}}{%- endif -%}
        {{- "<|start|>functions." + last_call.name + " to=assistant<|message|>" -}}
        {{- message.content | tojson + "<|end|>" -}}
    {%- else -%}
        {{- "<|start|>" ~ message.role ~ "<|message|>" ~ message.content ~ "<|end|>" -}}
    {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}<|start|>assistant{%- endif -%}
"""
NEMOTRON = """\
{%- set ns = namespace(thinking=true, has_system=false) -%}
{%- for message in messages -%}
    {%- if message['content'] is string and '/no_think' in message['content'] -%}
        {%- set ns.thinking = false -%}
    {%- endif -%}
{%- endfor -%}
{{- bos_token -}}
{%- for message in messages -%}
    {%- set content = message['content'] | default('', true) -%}
    {%- if content.count('/no_think') > 1 -%}{%- continue -%}{%- endif -%}
    {%- set content = content.replace('/think', '').replace('/no_think', '').strip() -%}
    {%- if message['role'] == 'assistant' and '</think>' in content -%}
        {%- set content = '<think></think>' ~ content[content.rfind('</think>') + 8:].lstrip() -%}
    {%- endif -%}
    {%- if message['role'] == 'assistant' -%}
        {%- generation -%}{{- '<|assistant|>' + content + eos_token -}}{%- endgeneration -%}
    {%- else -%}
        {{- ['<|', message['role'], '|>'] | join -}}{{- content if content == content.title() else content[:1] | upper ~ content[1:] -}}
    {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{- '<|assistant|>' ~ ('<think>\\n' if ns.thinking else '<think></think>') -}}
{%- endif -%}
{#- tools -#}
"""
SMOLLM3 = """\
{%- set system = messages[0].content if messages[0].role == 'system' else '' -%}
{%- set mode = '/no_think' if '/no_think' in system else '/think' -%}
{%- set custom = system.replace('/no_think', '').replace('/think', '').rstrip() -%}
{{- '<|im_start|>system\\n## Metadata\\n\\nReasoning Mode: ' ~ mode ~ '\\n\\n' ~ custom -}}
{%- if tools -%}
    {%- set ns = namespace(text='') -%}
    {%- for tool in tools -%}{%- set ns.text = ns.text ~ (tool.function | string) ~ '\\n' -%}{%- endfor -%}
    {{- '\\n<tools>\\n' ~ ns.text ~ '</tools>' -}}
{%- endif -%}
{{- '<|im_end|>\\n' -}}
{%- for message in messages if message.role != 'system' -%}
    {%- set content = message.content if message.content is string else '' -%}
    {%- if message.role == "assistant" -%}
        {%- if mode == '/think' -%}{{- '<|im_start|>assistant\\n' + content.lstrip('\\n') -}}
        {%- else -%}{{- '<|im_start|>assistant\\n<think>\\n\\n</think>\\n' + content.lstrip("\\n ") -}}
        {%- endif -%}
        {{- '<|im_end|>\\n' -}}
    {%- else -%}
        {{- '<|im_start|>user\\n' + content + '<|im_end|>\\n' -}}
    {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}
"""
# Every other way in which a template can take a text apart and put it together.
EVERYTHING = """\
{{- bos_token -}}
{%- macro wrapped(text) -%}<|user|>{{ caller(text) if caller else text }}<|end|>{%- endmacro -%}
{%- for message in messages if message.content is string -%}
    {%- set text = message.content -%}
    {%- call(inner) wrapped(text) -%}{{ inner[1:-1] }}{%- endcall -%}
    {{- wrapped(text | title) ~ wrapped(text.swapcase()) ~ wrapped(text.casefold()) -}}
    {{- wrapped(text.center(60, '*')) ~ wrapped(text.ljust(9)) ~ wrapped(text.zfill(30)) -}}
    {{- wrapped(text.rpartition(' ')[0]) ~ wrapped(text.rsplit(None, 1)[-1:] | join) -}}
    {{- wrapped(text.split() | join('<|user|>')) ~ wrapped('<|end|>'.join(text.split('\\n'))) -}}
    {{- wrapped(text | reverse) ~ wrapped(text | list | join('-')) ~ wrapped(text * 2) -}}
    {{- wrapped(text | replace('a', '<|end|>')) ~ wrapped('<|end|>'.replace('n', text)) -}}
    {{- wrapped('{0!r:>9}{1}'.format(text, '<|end|>')) ~ wrapped('%-40s|<|end|>' | format(text)) -}}
    {{- wrapped('{x[k]}<|end|>'.format(x={'k': text})) ~ wrapped('%(k)s' % {'k': text}) -}}
    {{- wrapped([text, {'<|end|>': text}]) ~ wrapped((text, 1) | tojson) ~ wrapped({text: text}) -}}
    {{- wrapped(text | indent(3, true)) ~ wrapped(text | wordwrap(10)) ~ wrapped(text | truncate(9)) -}}
    {{- wrapped(text | escape) ~ wrapped(text | urlencode) ~ wrapped(text | pprint) -}}
    {{- wrapped(text | striptags) ~ wrapped(text | safe) ~ wrapped(text.expandtabs(4)) -}}
    {{- wrapped(text.translate({101: '<'})) ~ wrapped(text.encode().decode()) ~ wrapped(text.removeprefix('a')) -}}
    {{- wrapped(text | tojson(ensure_ascii=true, indent=1, separators=(',', ':'))) -}}
    {{- wrapped([text, '<|end|>'] | first) ~ wrapped([text, text] | unique | join) -}}
    {{- wrapped(messages | map(attribute='content') | select('string') | join('<|end|>')) -}}
    {{- wrapped(dict(a=text).items() | list) ~ wrapped(cycler(text, '<|end|>').next()) -}}
    {%- set ns = namespace(all='') -%}
    {%- for character in text -%}
        {%- if character in '<|' -%}{%- set ns.all = ns.all ~ character -%}{%- continue -%}{%- endif -%}
        {%- set ns.all = character + ns.all -%}{%- if loop.index > 50 -%}{%- break -%}{%- endif -%}
    {%- endfor -%}
    {{- wrapped(ns.all) ~ wrapped(loop.cycle(text, '<|end|>')) ~ wrapped(text is string and text == text) -}}
    {{- wrapped({'a': 1}[text] | default(text)) ~ wrapped(text[0] | default('<|end|>')) -}}
{%- endfor -%}
"""

FAMILIES = {
    "chatml": CHATML, "r1 distill": R1_DISTILL, "qwen 3": QWEN3, "mistral": MISTRAL, "gemma": GEMMA,
    "phi": PHI, "granite": GRANITE, "hermes tools": HERMES_TOOLS, "command r": COMMAND_R,
    "gpt-oss": GPT_OSS, "nemotron": NEMOTRON, "smollm 3": SMOLLM3, "everything": EVERYTHING,
}  # fmt: skip
# The families' control tokens; False as in fine-tunes, which mark theirs `special: false`.
TOKENS = {
    "<|im_start|>": True, "<|im_end|>": False, "<|user|>": True, "<|assistant|>": True,
    "<|system|>": True, "<|end|>": False, "<|tool|>": True, "<|/tool|>": False,
    "<tool_call>": False, "</tool_call>": False, "[INST]": True, "[/INST]": False,
    "[TOOL_CALLS]": False, "<start_of_turn>": False, "<end_of_turn>": True,
    "<|start_of_role|>": True, "<|end_of_role|>": True, "<|START_OF_TURN_TOKEN|>": True,
    "<|END_OF_TURN_TOKEN|>": False, "<|USER_TOKEN|>": True, "<|start|>": True,
    "<|message|>": False, "<|channel|>": True, "<|call|>": True,
}  # fmt: skip
