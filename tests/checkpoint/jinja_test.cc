// The evaluator by itself: what transformers' Jinja makes of the same templates, what is refused, and what a hostile
// template may cost.
#include "checkpoint/jinja.h"

#include <gmock/gmock.h>

#include <chrono>
#include <ctime>
#include <fstream>

#include "checkpoint/checkpoint_testing.h"

namespace purekv {
namespace {

using testing::ErrorOf;
using ::testing::HasSubstr;
using ::testing::StartsWith;
using Json = nlohmann::ordered_json;

std::string Render(const std::string& source, const Json& variables = Json::object()) {
  jinja::Variables values;
  for (const auto& [name, value] : variables.items()) values.emplace_back(name, jinja::FromJson(value, name));
  return jinja::Template::Parse(source, "T").Render(values, 0);
}

std::string Repeat(const std::string& text, int count) {
  std::string out;
  for (int i = 0; i < count; ++i) out += text;
  return out;
}

// 900 random templates, rendered by transformers' environment.
TEST(Jinja, RendersRandomTemplatesAsTransformersDoes) {
  const Json file =
      Json::parse(testing::ReadText(std::string(PUREKV_TEST_DATA) + "/reference/chat_templates/snippets.json"));
  int errors = 0, refused = 0;
  for (const Json& row : file.at("snippets")) {
    const auto source = row[0].get<std::string>();
    std::string text, error;
    try {
      text = Render(source, file.at("variables"));
    } catch (const Error& caught) {
      error = caught.what();
      EXPECT_THAT(error, StartsWith("T: line ")) << source;
    }
    if (row[1].is_null()) {
      EXPECT_NE(error, "") << source << "\ngives " << text;
      ++errors;
    } else if (error.find("not supported") != error.npos) {
      ++refused;
    } else {
      EXPECT_EQ(error, "") << source;
      EXPECT_EQ(text, row[1].get<std::string>()) << source;
    }
  }
  EXPECT_GT(file.at("snippets").size(), 500u);
  EXPECT_GT(errors, 100);
  EXPECT_LE(refused, 5);
}

TEST(Jinja, WhitespaceControl) {
  EXPECT_EQ(Render("a\n  {% if true %}\n  b\n  {% endif %}\nc\n"), "a\n  b\nc");
  EXPECT_EQ(Render("a {%- if true -%} \n b {%- endif +%}\nc\n\n"), "ab\nc\n");
  EXPECT_EQ(Render("  {{ 1 }}\n  {{- 2 -}}  \n3"), "  123");
  EXPECT_EQ(Render("x {%+ if true %}y{% endif %}\r\nz\r"), "x yz");
  EXPECT_EQ(Render("a\n {# no #}\nb{#- no -#}\n c"), "a\nbc");
  EXPECT_EQ(Render("{% raw %}\n {{ x }} {% y %}\n{% endraw %}\nz"), "\n {{ x }} {% y %}\nz");
  EXPECT_EQ(Render("{{ {'a': {'b': 1}}['a']['b'] }}}"), "1}");
}

// Where a name is looked up is decided before a template runs.
TEST(Jinja, ScopesAreJinjas) {
  const Json x = {{"x", "outer"}};
  EXPECT_EQ(Render("{% for i in [1, 2] %}{{ x }}{% set x = i %}{{ x }} {% endfor %}{{ x }}", x), "outer1 outer2 outer");
  EXPECT_EQ(Render("{% if true %}{% set x = 1 %}{% endif %}{{ x }}", x), "1");
  EXPECT_EQ(Render("{% if false %}{% set x = 1 %}{% endif %}{{ x }}", x), "outer");
  // Set further down, so the template's own from the start: inside the loop it is not there yet.
  EXPECT_EQ(Render("{% for i in [1] %}[{{ x }}]{% endfor %}{% set x = 2 %}{{ x }}", x), "[]2");
  EXPECT_EQ(Render("{% set y = 1 %}{% macro m() %}{{ y }}{% endmacro %}{% set y = 2 %}{{ m() }}"), "2");
  EXPECT_EQ(Render("{% macro m(n) %}{{ n }}{{ m(n - 1) if n > 0 }}{% endmacro %}{{ m(3) }}"), "3210");
  EXPECT_EQ(Render("{% set ns = namespace(n=0) %}{% for i in 'abc' %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}"),
            "3");
  EXPECT_EQ(Render("{% macro m(a, b='B') %}{{ a }}{{ b }}{{ caller(1) }}{% endmacro %}"
                   "{% call(n) m('A') %}<{{ n }}>{% endcall %}"),
            "AB<1>");
  EXPECT_EQ(Render("{% for a in [1, 2, 3] if a != 2 %}{{ loop.index }}:{{ a }} {% else %}none{% endfor %}"),
            "1:1 2:3 ");
  EXPECT_EQ(
      Render("{% for i in range(9) %}{% if i == 1 %}{% continue %}{% endif %}{% if i == 3 %}{% break %}{% endif %}"
             "{{ i }}{% endfor %}"),
      "02");
  // The condition of a loop without `loop` is asked while the body runs.
  EXPECT_EQ(Render("{% set ns = namespace(on=true) %}{% for i in [1, 2, 3] if ns.on %}{{ i }}"
                   "{% if i == 2 %}{% set ns.on = false %}{% endif %}{% endfor %}"),
            "12");
}

TEST(Jinja, TextIsCountedInCodePoints) {
  const Json text = {{"s", "Straße 👩‍🚀 ΟΔΟΣ"}};
  EXPECT_EQ(Render("{{ s | length }} {{ s[5:8] }} {{ s[::-1][:4] }}", text), "15 e 👩 ΣΟΔΟ");
  EXPECT_EQ(Render("{{ s | upper }} {{ s.lower() }} {{ 'ǆungla ŉ'.title() }}", text),
            "STRASSE 👩‍🚀 ΟΔΟΣ straße 👩‍🚀 οδος ǅungla ʼN");
  EXPECT_EQ(Render("{{ '\xc2\xa0\xe3\x80\x80x\\x1c' | trim }}|{{ '1\\u20282'.splitlines() }}"), "x|['1', '2']");
  EXPECT_EQ(Render("{{ ['é', '\\t', \"it's\", '\\u200b'] }}"), "['é', '\\t', \"it's\", '\\u200b']");
  EXPECT_EQ(Render("{{ {'é': '<&>', 'n': [1.0, none, true]} | tojson }}"), R"({"é": "<&>", "n": [1.0, null, true]})");
}

TEST(Jinja, TimeIsGiven) {
  std::tm local{};
  local.tm_year = 124;
  local.tm_mon = 6;
  local.tm_mday = 26;
  local.tm_isdst = -1;
  EXPECT_EQ(jinja::Template::Parse("{{ strftime_now('%d %b %Y') }}", "T").Render({}, std::mktime(&local)),
            "26 Jul 2024");
}

// What the user says is data.
TEST(Jinja, ValuesAreNotTemplates) {
  const std::string text = "{{ 1 }}{% raw %}{# x #}\r\n";
  EXPECT_EQ(Render("{{ x }}|{{ x | trim }}|{{ [x][0] ~ x }}", {{"x", text}}),
            text + "|{{ 1 }}{% raw %}{# x #}|" + text + text);
}

TEST(Jinja, RefusesByNameWithTheLine) {
  const std::pair<const char*, const char*> cases[] = {
      {"{% include 'x' %}", "T: line 1: the tag 'include' is not supported"},
      {"\n{% import 'x' as y %}", "T: line 2: the tag 'import'"},
      {"{% block b %}{% endblock %}", "the tag 'block'"},
      {"{% extends 'x' %}", "the tag 'extends'"},
      {"{% autoescape true %}{% endautoescape %}", "the tag 'autoescape'"},
      {"{% for i in [] recursive %}{% endfor %}", "recursive loops are not supported"},
      {"{% do x %}", "unknown tag 'do'"},
      {"{% break %}", "'break' outside loop"},
      {"{% for i in [1] %}{% macro m() %}{% continue %}{% endmacro %}{% endfor %}", "'continue' outside loop"},
      {"{{ 'a' | nothing }}", "No filter named 'nothing'"},
      {"{{ 1 is nothing }}", "No test named 'nothing'"},
      {"{{ 'a' | urlize }}", "the filter urlize is not supported"},
      {"{{ '{}'.format(1) }}", "str.format() is not supported"},
      {"{{ 'a'.encode() }}", "str.encode() is not supported"},
      {"{{ lipsum() }}", "lipsum() is not supported"},
      {"{{ [1].append(2) }}", "access to attribute 'append' of 'list' object is unsafe"},
      {"{{ {}.update({}) }}", "'update' of 'dict'"},
      {"{{ ''.__class__.__mro__ }}", "unsafe"},
      {"\n\n{{ x.y }}", "T: line 3: 'x' is undefined"},
      {"{{ x + 1 }}", "'x' is undefined"},
      {"{{ {'a': 1}.b.c }}", "'dict object' has no attribute 'b'"},
      {"{{ none.x.y }}", "'None' has no attribute 'x'"},
      {"{{ missing() }}", "'missing' is undefined"},
      {"{{ 'a' + 1 }}", "unsupported operand type(s) for +: 'str' and 'int'"},
      {"{{ 1 < 'a' }}", "not supported between instances of 'int' and 'str'"},
      {"{{ 1 / 0 }}", "division by zero"},
      {"{{ 2 ** 63 }}", "an integer leaves 64 bits"},
      {"{{ 9223372036854775807 + 1 }}", "an integer leaves 64 bits"},
      {"{{ [] | map('upper') }}", "has no text of its own"},
      {"{{ {[]: 1} }}", "unhashable type: 'list'"},
      {"{{ raise_exception('roles\nmust alternate') }}", "the template refuses the conversation: roles must alternate"},
      {"{% set a, b = [1] %}", "not enough values to unpack"},
      {"{% set x.y = 1 %}", "cannot assign attribute on non-namespace object"},
      {"{% set 1 = 2 %}", "nothing can be assigned to this"},
      {"{% for loop in [1] %}{% endfor %}", "loop"},
      {"{% macro m(a=1, b) %}{% endmacro %}", "non-default argument follows default argument"},
      {"{% macro m(caller) %}{% endmacro %}", "caller is not supported"},
      {"{% macro m() %}{% endmacro %}{{ m(1) }}", "takes not more than 0"},
      {"{% if x %}", "the template ends where {% endif %} is expected"},
      {"{% for x in y %}{% endif %}", "unknown tag 'endif'"},
      {"{% endfor %}", "unknown tag 'endfor'"},
      {"{{ (1 }}", "unexpected '}', expected ')'"},
      {"{{ 1", "expected end of print statement"},
      {"{{", "unexpected 'end of template'"},
      {"{# x", "Missing end of comment"},
      {"{% raw %}x", "Missing end of raw"},
      {"{{ 'a }}", "the string has no end"},
      {"{{ '\\ud800' }}", "names no character"},
      {"{{ 1 ? 2 }}", "unexpected character '?'"},
      {"{{ é }}", "unexpected character 'é'"},
  };
  for (const auto& [source, says] : cases) {
    const std::string error = ErrorOf([source = source] { Render(source); });
    EXPECT_THAT(error, StartsWith("T: line ")) << source;
    EXPECT_THAT(error, HasSubstr(says)) << source;
  }
  EXPECT_THAT(ErrorOf([] { Render("a\xff"); }), HasSubstr("T: not valid UTF-8 at byte 1"));
  // A branch that is not taken may name what nobody knows.
  EXPECT_EQ(Render("{% if false %}{{ 1 | nothing }}{% endif %}ok"), "ok");
}

// Time, memory and stack are bounded whatever a template does.
TEST(Jinja, HostileTemplatesEndInOneLine) {
  const std::string grow = "{% set ns = namespace(x=['a']) %}{% for i in range(100000) %}";
  const std::string cases[] = {
      "{{ " + Repeat("(", 5000) + "1" + Repeat(")", 5000) + " }}",
      "{{ " + Repeat("[", 5000) + Repeat("]", 5000) + " }}",
      "{{ 1" + Repeat(" + 1", 5000) + " }}",
      "{{ x" + Repeat(".x", 5000) + " }}",
      "{{ x" + Repeat("|upper", 5000) + " }}",
      "{{ " + Repeat("not ", 5000) + "1 }}",
      "{{ " + Repeat("-", 5000) + "1 }}",
      "{{ " + Repeat("1 if 1 else ", 5000) + "1 }}",
      Repeat("{% if 1 %}", 5000) + Repeat("{% endif %}", 5000),
      Repeat("{% for i in 'a' %}", 150) + Repeat("{{ " + Repeat("(", 150), 1),
      "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
      "{% macro a() %}{{ b() }}{% endmacro %}{% macro b() %}{{ a() ~ a() }}{% endmacro %}{{ a() }}",
      "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(60) }}",
      "{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}",
      "{{ range(100001) }}{{ range(10 ** 18) | list }}",
      "{{ range(-9223372036854775807, 9223372036854775807) | length }}",
      "{{ 'a' * 10 ** 12 }}",
      "{{ ['a'] * 10 ** 12 }}",
      "{{ 'a'.center(10 ** 15) }}",
      "{{ 'a'.zfill(10 ** 15) }}",
      "{{ 'a\\nb' | indent(10 ** 15) }}",
      "{{ [1] | batch(10 ** 15, 0) | list }}",
      "{{ [1] | tojson(indent=10 ** 15) }}",
      "{{ ('a' * 100000).replace('a', 'b' * 100000) }}",
      "{{ ('a' * 100000) | replace('', 'b' * 100000) }}",
      "{{ ('b' * 100000).join(range(100000) | map('string')) }}",
      "{{ range(100000) | join('b' * 100000) }}",
      grow + "{% set ns.x = ns.x + ns.x %}{% endfor %}",
      grow + "{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x }}",
      "{% set ns = namespace(x='ab') %}{% for i in range(100000) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
      "{% set ns = namespace(x=[1]) %}{% for i in range(90) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x }}",
      "{% set ns = namespace(x=[1]) %}{% for i in range(90) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x == "
      "[ns.x] }}"
      "{{ ns.x | tojson }}",
      "{% set ns = namespace() %}{% set ns.ns = [ns] %}{{ ns }}",
      "{% for i in range(100000) %}{{ 'x' * 10000 }}{% endfor %}",
      "{{ strftime_now('%c' * 100000) }}",
      "{{ 'a' * 1000000 }}{{ ('a' * 1000000) | upper | lower | title | list | sort | join | trim | wordcount }}" +
          Repeat("{{ ('a ' * 1000000) | upper | split }}", 1),
  };
  for (const std::string& source : cases) {
    const auto begin = std::chrono::steady_clock::now();
    const std::string error = ErrorOf([&] { Render(source); });
    EXPECT_THAT(error, StartsWith("T: line ")) << source.substr(0, 200);
    EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(20)) << source.substr(0, 200);
  }
  EXPECT_THAT(ErrorOf([] { Render(std::string(300000, 'x')); }), HasSubstr("300000 bytes"));
  EXPECT_THAT(ErrorOf([] { Render(Repeat("{% set a", 1)); }), HasSubstr("T: line 1"));
}

// What refers to itself is freed all the same (the sanitizers look), and deep chains do not need a deep stack.
TEST(Jinja, SelfReferencesAreFreed) {
  EXPECT_EQ(Render("{% set ns = namespace() %}{% set ns.me = ns %}{% set ns.list = [ns, [ns]] %}ok"), "ok");
  EXPECT_EQ(
      Render(
          "{% set ns = namespace() %}{% macro m() %}{{ ns is defined }}{% endmacro %}{% set ns.m = m %}{{ ns.m() }}"),
      "True");
  EXPECT_EQ(Render("{% set ns = namespace(x=none) %}{% for i in range(20000) %}{% set ns.x = namespace(x=[ns.x]) %}"
                   "{% endfor %}ok"),
            "ok");
  EXPECT_EQ(Render("{% set ns = namespace(f=none) %}{% macro keep() %}{% set ns.f = caller %}{% endmacro %}"
                   "{% for i in [1, 2] %}{% call keep() %}{{ i }}{% endcall %}{% endfor %}[{{ ns.f() }}]"),
            "[]");
}

}  // namespace
}  // namespace purekv
