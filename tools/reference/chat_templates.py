"""Chat templates in the idiom of each family, written for these tests, and what transformers makes of them: chat_templates/.

Each template stands for constructs that published ones use: counters in namespaces, macros, reversed lists, slices, roles renamed, bad
conversations refused, dates, tools as JSON. A conversation that a template refuses is kept as an error.
"""
import datetime
import json

import jinja_snippets
from layout import OUT

NOW = datetime.datetime(2024, 7, 26, 15, 4, 5)  # what strftime_now tells

CHATML = """{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system
You are a kind assistant.<|im_end|>
' }}{% endif %}{{'<|im_start|>' + message['role'] + '
' + message['content'] + '<|im_end|>' + '
'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant
' }}{% endif %}"""

QWEN_VL = """{%- set pictures = namespace(count=0) %}{%- set clips = namespace(count=0) %}
{%- for message in messages %}
    {%- if loop.first and message['role'] != 'system' %}
        {{- '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' }}
    {%- endif %}
    {{- '<|im_start|>' ~ message['role'] ~ '\\n' }}
    {%- if message['content'] is string %}
        {{- message['content'] }}
    {%- else %}
        {%- for part in message['content'] %}
            {%- if part['type'] == 'image' or 'image' in part or 'image_url' in part %}
                {%- set pictures.count = pictures.count + 1 %}
                {%- if add_vision_id %}{{- 'Picture ' ~ pictures.count ~ ': ' }}{% endif -%}
                <|vision_start|><|image_pad|><|vision_end|>
            {%- elif part['type'] == 'video' or 'video' in part %}
                {%- set clips.count = clips.count + 1 %}
                {%- if add_vision_id %}{{- 'Video ' ~ clips.count ~ ': ' }}{% endif -%}
                <|vision_start|><|video_pad|><|vision_end|>
            {%- elif 'text' in part %}{{- part['text'] }}{% endif %}
        {%- endfor %}
    {%- endif %}
    {{- '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{% endif %}
"""

QWEN3 = """{%- if tools %}
    {{- '<|im_start|>system\\n' }}
    {%- if messages[0].role == 'system' %}{{- messages[0].content + '\\n\\n' }}{%- endif %}
    {{- "# Tools\\n\\nCall what helps. Signatures:\\n<tools>" }}
    {%- for tool in tools %}{{- "\\n" }}{{- tool | tojson }}{%- endfor %}
    {{- "\\n</tools><|im_end|>\\n" }}
{%- elif messages[0].role == 'system' %}
    {{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}
{%- endif %}
{%- set ns = namespace(searching=true, last_query=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if ns.searching and message.role == "user" and message.content is string and not(message.content.startswith('<tool_response>') and message.content.endswith('</tool_response>')) %}
        {%- set ns.searching = false %}
        {%- set ns.last_query = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if message.content is string %}{%- set content = message.content %}{%- else %}{%- set content = '' %}{%- endif %}
    {%- if (message.role == "user") or (message.role == "system" and not loop.first) %}
        {{- '<|im_start|>' + message.role + '\\n' + content + '<|im_end|>' + '\\n' }}
    {%- elif message.role == "assistant" %}
        {%- set reasoning = '' %}
        {%- if message.reasoning_content is string %}
            {%- set reasoning = message.reasoning_content %}
        {%- elif '</think>' in content %}
            {%- set reasoning = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}
            {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
        {%- endif %}
        {%- if loop.index0 > ns.last_query and (loop.last or reasoning) %}
            {{- '<|im_start|>' + message.role + '\\n<think>\\n' + reasoning.strip('\\n') + '\\n</think>\\n\\n' + content.lstrip('\\n') }}
        {%- else %}
            {{- '<|im_start|>' + message.role + '\\n' + content }}
        {%- endif %}
        {%- for call in message.tool_calls or [] %}
            {%- if (loop.first and content) or (not loop.first) %}{{- '\\n' }}{%- endif %}
            {%- if call.function %}{%- set call = call.function %}{%- endif %}
            {{- '<tool_call>\\n{"name": "' }}{{- call.name }}{{- '", "arguments": ' }}
            {%- if call.arguments is string %}{{- call.arguments }}{%- else %}{{- call.arguments | tojson }}{%- endif %}
            {{- '}\\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\\n' }}
    {%- elif message.role == "tool" %}
        {%- if loop.first or (messages[loop.index0 - 1].role != "tool") %}{{- '<|im_start|>user' }}{%- endif %}
        {{- '\\n<tool_response>\\n' }}{{- content }}{{- '\\n</tool_response>' }}
        {%- if loop.last or (messages[loop.index0 + 1].role != "tool") %}{{- '<|im_end|>\\n' }}{%- endif %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}
{%- endif %}"""

LLAMA3 = """{{- bos_token }}
{%- if custom_tools is defined %}{%- set tools = custom_tools %}{%- endif %}
{%- if not date_string is defined %}
    {%- if strftime_now is defined %}{%- set date_string = strftime_now("%d %b %Y") %}{%- else %}{%- set date_string = "26 Jul 2024" %}{%- endif %}
{%- endif %}
{%- if not tools is defined %}{%- set tools = none %}{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}{%- set system_message = "" %}{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\n" }}
{%- if tools is not none %}{{- "Environment: tools\\n" }}{%- endif %}
{{- "Knowledge ends: December 2023\\n" }}
{{- "Today is: " + date_string + "\\n\\n" }}
{{- system_message }}
{{- "<|eot_id|>" }}
{%- for message in messages %}
    {%- if not (message.role == 'ipython' or message.role == 'tool' or 'tool_calls' in message) %}
        {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' }}
        {%- if message['content'] is string %}{{- message['content'] | trim + '<|eot_id|>' }}
        {%- else %}
            {%- for part in message['content'] %}
                {%- if part['type'] == 'image' %}{{- '<|image|>' }}{%- elif part['type'] == 'text' %}{{- part['text'] | trim }}{%- endif %}
            {%- endfor %}
            {{- '<|eot_id|>' }}
        {%- endif %}
    {%- elif 'tool_calls' in message %}
        {%- if not message.tool_calls|length == 1 %}{{- raise_exception("One tool call at once, please.") }}{%- endif %}
        {%- set call = message.tool_calls[0].function %}
        {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' -}}
        {{- '{"name": "' + call.name + '", "parameters": ' }}{{- call.arguments | tojson }}{{- "}" }}{{- "<|eot_id|>" }}
    {%- elif message.role == "tool" or message.role == "ipython" %}
        {{- "<|start_header_id|>ipython<|end_header_id|>\\n\\n" }}
        {%- if message.content is mapping or message.content is iterable %}{{- message.content | tojson }}{%- else %}{{- message.content }}{%- endif %}
        {{- "<|eot_id|>" }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{%- endif %}
"""

GEMMA = """{{ bos_token }}
{%- if messages[0]['role'] == 'system' -%}
    {%- if messages[0]['content'] is string -%}{%- set first_user_prefix = messages[0]['content'] + '

' -%}
    {%- else -%}{%- set first_user_prefix = messages[0]['content'][0]['text'] + '

' -%}{%- endif -%}
    {%- set loop_messages = messages[1:] -%}
{%- else -%}
    {%- set first_user_prefix = "" -%}
    {%- set loop_messages = messages -%}
{%- endif -%}
{%- for message in loop_messages -%}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) -%}
        {{ raise_exception("Roles must go user/assistant/user/assistant/...") }}
    {%- endif -%}
    {%- if (message['role'] == 'assistant') -%}{%- set role = "model" -%}{%- else -%}{%- set role = message['role'] -%}{%- endif -%}
    {{ '<start_of_turn>' + role + '
' + (first_user_prefix if loop.first else "") }}
    {%- if message['content'] is string -%}
        {{ message['content'] | trim }}
    {%- elif message['content'] is iterable -%}
        {%- for item in message['content'] -%}
            {%- if item['type'] == 'image' -%}{{ '<start_of_image>' }}
            {%- elif item['type'] == 'text' -%}{{ item['text'] | trim }}{%- endif -%}
        {%- endfor -%}
    {%- else -%}{{ raise_exception("What content is this?") }}{%- endif -%}
    {{ '<end_of_turn>
' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{'<start_of_turn>model
'}}{%- endif -%}
"""

MISTRAL = """{%- if messages[0]["role"] == "system" %}{%- set system_message = messages[0]["content"] %}{%- set loop_messages = messages[1:] %}
{%- else %}{%- set loop_messages = messages %}{%- endif %}
{%- set ns = namespace() %}{%- set ns.index = 0 %}
{%- for message in loop_messages %}
    {%- if not (message.role == "tool" or (message.tool_calls is defined and message.tool_calls is not none)) %}
        {%- if (message["role"] == "user") != (ns.index % 2 == 0) %}{{- raise_exception("user and assistant must take turns") }}{%- endif %}
        {%- set ns.index = ns.index + 1 %}
    {%- endif %}
{%- endfor %}
{{- bos_token }}
{%- for message in loop_messages %}
    {%- if message["role"] == "user" %}
        {%- if loop.last and system_message is defined %}{{- "[INST] " + system_message + "\\n\\n" + message["content"] + "[/INST]" }}
        {%- else %}{{- "[INST] " + message["content"] + "[/INST]" }}{%- endif %}
    {%- elif message["role"] == "assistant" %}{{- " " + message["content"]|trim + eos_token }}
    {%- else %}{{- raise_exception("Only user, system and assistant are known, not " ~ message["role"] ~ "!") }}{%- endif %}
{%- endfor %}
"""

INST = ("{{ bos_token }}{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
        "{{ raise_exception('user and assistant must take turns') }}{% endif %}{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}"
        "{% elif message['role'] == 'assistant' %}{{ message['content'] + eos_token}}{% else %}{{ raise_exception('Only two roles!') }}{% endif %}{% endfor %}")

VICUNA = ("{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}{% set system_message = messages[0]['content'] %}{% else %}"
          "{% set loop_messages = messages %}{% set system_message = 'A chat between somebody curious and an assistant.' %}{% endif %}{{ system_message }}"
          "{% for message in loop_messages %}{% if message['role'] == 'user' %}{{ ' USER: ' + message['content'].strip() }}{% elif message['role'] == 'assistant' %}"
          "{{ ' ASSISTANT: ' + message['content'].strip() + eos_token }}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ ' ASSISTANT:' }}{% endif %}")

LLAVA = ("{% for message in messages %}{% if message['role'] != 'system' %}{{ message['role'].upper() + ': '}}{% endif %}{# pictures first #}"
         "{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>\n' }}{% endfor %}{# then words #}"
         "{% if message['role'] != 'assistant' %}{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}{{ content['text'] + ' '}}{% endfor %}"
         "{% else %}{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}{% generation %}{{ content['text'] + ' '}}{% endgeneration %}{% endfor %}{% endif %}"
         "{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}")

ONEVISION = ("{% for message in messages %}{{'<|im_start|>' + message['role'] + ' '}}{# media #}{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}"
             "{{ '<image>' }}{% endfor %}{% for content in message['content'] | selectattr('type', 'equalto', 'video') %}{{ '<video>' }}{% endfor %}"
             "{% if message['role'] != 'assistant' %}{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}{{ '\n' + content['text'] }}{% endfor %}"
             "{% else %}{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}{% generation %}{{ '\n' + content['text'] }}{% endgeneration %}{% endfor %}"
             "{% endif %}{{'<|im_end|>'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}")

INTERN = """{{ bos_token }}{% for message in messages -%}
{{'<|im_start|>' + message['role'] + '\n'}}
{%- if message['content'] is string %}{{ message['content'] }}
{%- else %}
{%- for part in message['content'] %}
{%- if part['type'] == 'image' %}{{ '<IMG_CONTEXT>\n' }}
{%- elif part['type'] == 'video' %}{{ '<video>\n' }}
{%- elif part['type'] == 'text' %}{{ part['text'] }}
{%- endif %}
{%- endfor %}
{%- endif %}
{{- '<|im_end|>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{'<|im_start|>assistant\n' }}{% endif -%}
"""

QWEN3_VL = """{%- macro render(content, count) %}
    {%- if content is string %}{{- content }}
    {%- else %}
        {%- for item in content %}
            {%- if 'image' in item or 'image_url' in item or item.type == 'image' %}
                {%- set counter.images = counter.images + 1 %}
                {%- if add_vision_id %}Picture {{ counter.images }}: {% endif -%}
                <|vision_start|><|image_pad|><|vision_end|>
            {%- elif 'video' in item or item.type == 'video' %}
                {%- if add_vision_id %}Video {{ count }}: {% endif -%}
                <|vision_start|><|video_pad|><|vision_end|>
            {%- elif 'text' in item %}{{- item.text }}{%- endif %}
        {%- endfor %}
    {%- endif %}
{%- endmacro %}
{%- set counter = namespace(images=0) %}
{%- if messages[0].role == 'system' %}{{- '<|im_start|>system\\n' + render(messages[0].content, 0) + '<|im_end|>\\n' }}{%- endif %}
{%- for message in messages %}
    {%- if not (message.role == 'system' and loop.first) %}
        {%- set text = render(message.content, count=loop.index) | trim %}
        {{- '<|im_start|>' ~ message.role ~ '\\n' ~ text ~ '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}
"""

SMOL = ("{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nYou are a small assistant.<|im_end|>\n' }}{% endif %}"
        "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}")

SMOL_VLM = ("<|im_start|>{% for message in messages %}{{message['role'] | capitalize}}{% if message['content'][0]['type'] == 'image' %}{{':'}}{% else %}{{': '}}{% endif %}"
            "{% for line in message['content'] %}{% if line['type'] == 'text' %}{{line['text']}}{% elif line['type'] == 'image' %}{{ '<image>' }}{% endif %}{% endfor %}<end_of_utterance>\n"
            "{% endfor %}{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}")

BLOCKS = """{# set blocks, filter blocks, break, with, call, joiner #}
{% set head %}
  Chat of {{ messages | length }} on {{ strftime_now('%Y-%m-%d') }}
{% endset %}
{{ head | trim }}
{% macro frame(role, mark='*') %}{{ mark }}{{ role | title }}{{ mark }} {{ caller() }}{% endmacro %}
{% set comma = joiner('; ') %}
{% for message in messages if message.role in ['user', 'assistant'] %}
  {%- if loop.index > 6 %}{% break %}{% endif %}
  {%- with text = message.content if message.content is string else (message.content | selectattr('type', 'equalto', 'text') | map(attribute='text') | join(' ')) %}
{{ comma() }}{% call frame(message.role, mark='_') %}{% filter indent(2) %}{{ text | wordcount if text.isascii() else '?' }} {{ text | replace('\\n', '/') }}{% endfilter %}{% endcall %}
  {%- endwith %}
{%- else %}
nobody speaks
{%- endfor %}
{% if add_generation_prompt %}{{ '\n' }}_Assistant_ {% endif %}"""

EDITED = {  # what people do to a template
    "chatml-other-role": CHATML.replace("'<|im_start|>assistant", "'<|im_start|>bot").replace("message['role'] + '\n'", "message['role'] | replace('assistant', 'bot') + '\n'"),
    "qwen-vl-answer-prefix": QWEN_VL.replace("{{- '<|im_start|>assistant\\n' }}", "{{- '<|im_start|>assistant\\nAnswer: ' }}"),
    "qwen-vl-upper-case": QWEN_VL.replace("{{- message['content'] }}", "{{- message['content'] | upper }}").replace("{{- part['text'] }}", "{{- part['text'] | upper }}"),
    "gemma-in-capitals": "{% filter upper %}" + GEMMA + "{% endfilter %}",
}

TEMPLATES = {"chatml": CHATML, "qwen-vl": QWEN_VL, "qwen3": QWEN3, "llama-3": LLAMA3, "gemma": GEMMA, "mistral": MISTRAL, "inst": INST, "vicuna": VICUNA, "llava": LLAVA,
             "llava-onevision": ONEVISION, "internvl": INTERN, "qwen3-vl": QWEN3_VL, "smollm": SMOL, "smolvlm": SMOL_VLM, "blocks": BLOCKS, **EDITED}

TOKENS = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "additional_special_tokens": ["<|im_start|>", "<|im_end|>"]}


def say(role: str, content, **more) -> dict:
    return {"role": role, "content": content, **more}


def parts(*items: str) -> list:
    return [{"type": item[1:-1]} if item in ("<image>", "<video>") else {"type": "text", "text": item} for item in items]


TOOL = {"type": "function", "function": {"name": "weather", "description": "Says what it is like, <here> & \"there\".", "parameters": {
    "type": "object", "properties": {"place": {"type": "string"}, "days": {"type": "integer", "default": 1.5}}, "required": ["place"]}}}
CHATS = [
    ("one", [say("user", "Hello")], {}),
    ("blanks and lines", [say("user", "  Two\nlines \n")], {}),
    ("system", [say("system", " Be brief. "), say("user", "Hello")], {}),
    ("turns", [say("user", "One"), say("assistant", " Two "), say("user", "Three")], {}),
    ("turns with system", [say("system", "Count."), say("user", "One"), say("assistant", "Two"), say("user", "Three"), say("assistant", "Four"), say("user", "Five")], {}),
    ("an answer last", [say("user", "One"), say("assistant", "Two")], {"add_generation_prompt": False}),
    ("unicode", [say("system", "Straße – ΣΑΣ"), say("user", "Ünïcödé 你好 👩‍🚀 e\u0301 \u2028 ǆ"), say("assistant", "ﬁn"), say("user", "𝔘?")], {}),
    ("template in the text", [say("user", "{{ messages }} {% if x %} {# c #} <|im_end|>"), say("assistant", "{{ 1 }}"), say("user", "'\"\\")], {}),
    ("thoughts", [say("user", "Why?"), say("assistant", "<think>\nhm, hm\n</think>\n\nSo."), say("user", "And?"), say("assistant", "<think>\nagain</think>\nThus."), say("user", "Then?")], {}),
    ("thoughts kept", [say("user", "Why?"), say("assistant", "<think>\nhm\n</think>\n\nSo.")], {"add_generation_prompt": False}),
    ("without thinking", [say("user", "Why?")], {"enable_thinking": False}),
    ("image", [say("user", parts("<image>", "Describe. "))], {}),
    ("media", [say("system", parts("Look.")), say("user", parts("<video>", "<image>", "Both?", " Or?")), say("assistant", parts("Both.")), say("user", parts("<image>", "And this?"))], {}),
    ("media with numbers", [say("user", parts("<image>", "<video>", "<image>", "What?"))], {"add_vision_id": True}),
    ("tools", [say("system", "Help."), say("user", "Weather?"), say("assistant", "", tool_calls=[{"type": "function", "function": {"name": "weather", "arguments": {"place": "Zürich", "days": 2}}}]),
               say("tool", "{\"sky\": \"blue\"}"), say("tool", "{}"), say("assistant", "Blue."), say("user", "Thanks")], {"tools": [TOOL]}),
    ("two from the user", [say("user", "One"), say("user", "Two")], {}),
    ("unknown role", [say("user", "One"), say("critic", "Two"), say("user", "Three")], {}),
    ("answer first", [say("assistant", "One"), say("user", "Two")], {}),
    ("date", [say("user", "When?")], {"date_string": "1 Jan 1970"}),
]


class FixedTime(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return NOW


def render(template: str, messages: list, options: dict) -> str | None:
    from transformers.utils import chat_template_utils
    chat_template_utils.datetime = FixedTime
    try:
        rendered, _ = chat_template_utils.render_jinja_template([messages], chat_template=template, **{"add_generation_prompt": True, **options}, **TOKENS)
        return rendered[0]
    except Exception:  # a conversation that the template refuses, or was not made for
        return None


def main() -> None:
    rows = []
    for name, template in TEMPLATES.items():
        rows += [[name, n, render(template, messages, options)] for n, (_, messages, options) in enumerate(CHATS)]
    line = lambda value: json.dumps(value, ensure_ascii=False, separators=(",", ":"))  # noqa: E731
    body = [f'"about": {line("rendered: [file in templates/, number of the chat, text]; null: an error")}', f'"now": {line(list(NOW.timetuple()[:6]))}', f'"tokens": {line(TOKENS)}',
            '"chats": [\n' + ",\n".join(line({"name": n, "messages": m, "options": {"add_generation_prompt": True, **o}}) for n, m, o in CHATS) + "\n]",
            '"rendered": [\n' + ",\n".join(map(line, rows)) + "\n]"]
    path = OUT / "chat_templates"
    (path / "templates").mkdir(parents=True, exist_ok=True)
    for name, template in TEMPLATES.items():
        (path / "templates" / f"{name}.jinja").write_text(template, encoding="utf-8", newline="\n")
    (path / "chats.json").write_text("{" + ",\n".join(body) + "}\n", encoding="utf-8")
    print("chat templates", len(TEMPLATES), "rendered", len(rows), "errors", sum(text is None for _, _, text in rows))
    jinja_snippets.main()


if __name__ == "__main__":
    main()
