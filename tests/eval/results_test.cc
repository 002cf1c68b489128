// The store of results, the summary over them, and the page made of them.
#include "eval/results.h"

#include <gmock/gmock.h>

#include <filesystem>
#include <fstream>
#include <memory>
#include <sstream>
#include <string>
#include <vector>

#include "base/base64.h"
#include "base/file.h"
#include "engine/kept_bits.h"
#include "eval/report.h"
#include "eval/summary.h"
#include "purekv/error.h"
#include "support/reference_model.h"

namespace purekv {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

EvalResult Result(const std::string& id, const std::string& policy, double budget, double score) {
  EvalResult result;
  result.id = id;
  result.video = "video of " + id.substr(0, 1);
  result.type = "type";
  result.policy = policy;
  result.budget = budget;
  result.when = "prompt";
  result.prompt = "What?";
  result.reference = "x";
  result.answer = "</script><script>alert(1)</script>\n\"quoted\"";
  result.ids = {1, 2};
  result.finish = "stop";
  result.score = score;
  result.metrics = {{"exact", score}, {"kl", 0.125}, {"evidence", 0.5}};
  result.tokens_full = 100;
  result.visual_tokens = 80;
  result.evidence_tokens = 4;
  result.tokens_kept_mean = 20;
  result.bytes_full = 1 << 20;
  result.bytes_kept = 1 << 18;
  result.bytes_peak = 1 << 19;
  result.seconds = {{"decode", 0.5}, {"compress", 0.25}};
  result.kept_visual = {{8, 16}, {24, 32}};
  result.kept_evidence = {{1, 2}, {3, 4}};
  return result;
}

const OrderedJson kSettings = {{"policies", {"snapkv"}}, {"limit", nullptr}};

std::string ErrorOf(const std::function<void()>& action) {
  try {
    action();
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

TEST(ResultLines, AreReadBackAsTheyWere) {
  const EvalResult result = Result("a1", "snapkv+ada:window=16", 0.05, 1);
  const std::string line = ResultLine(result);
  EXPECT_EQ(line.find('\n'), line.size() - 1);
  const EvalResult back = ParseResultLine(line.substr(0, line.size() - 1), "f:1");
  EXPECT_EQ(ResultLine(back), line);
  EXPECT_EQ(back.key(), result.key());
  EXPECT_EQ(back.answer, result.answer);
  EXPECT_EQ(back.kept_evidence, result.kept_evidence);
  for (const std::string& wrong : {std::string("{}"), std::string("[]"), line.substr(0, 50), std::string("\xff")}) {
    EXPECT_THAT(ErrorOf([&] { ParseResultLine(wrong, "f:1"); }), HasSubstr("f:1"));
  }
}

TEST(ResultLines, SayHowTheCacheIsKept) {
  const std::string policy =
      "snapkv:merge=pivotal:keys=int4@0-3+int8:key-channels=0.5:budget-of=bytes:attend=quest:"
      "attend-budget=0.5";
  EvalResult result = Result("a1", policy, 0.2, 1);
  EXPECT_FALSE(result.by_bytes());
  result.form = CacheForm(MakeSetting(policy, 0.2, KvOptions::When::kPrompt).kv);
  result.merged = 12.5;
  result.bits_keys = 5.25;
  result.bits_values = 16;
  result.entries_attended_mean = 40.5;
  result.bytes_attended_mean = 1e6;
  const std::string line = ResultLine(result);
  const OrderedJson kv = OrderedJson::parse(line).at("kv");
  EXPECT_EQ(kv.at("merge"), "pivotal");
  EXPECT_EQ(kv.at("keys"), "int4@0-3,int8");
  EXPECT_EQ(kv.at("values"), "same");
  EXPECT_EQ(kv.at("key_channels"), 0.5);
  EXPECT_EQ(kv.at("budget_of"), "bytes");
  EXPECT_EQ(kv.at("attend"), "quest");
  EXPECT_EQ(kv.at("store"), "memory");
  const EvalResult back = ParseResultLine(line, "f:1");
  EXPECT_EQ(back.form, result.form);
  EXPECT_EQ(ResultLine(back), line);
  EXPECT_TRUE(back.by_bytes());
  // A line of an earlier build has the setting's name and no more.
  OrderedJson older = OrderedJson::parse(line);
  for (const char* const name : {"merge", "keys", "values", "key_channels", "budget_of", "attend", "store", "merged",
                                 "bits_keys", "bits_values", "entries_attended_mean", "bytes_attended_mean"}) {
    older["kv"].erase(name);
  }
  const EvalResult read = ParseResultLine(older.dump(), "f:1");
  EXPECT_EQ(read.form, result.form);
  EXPECT_EQ(read.bits_keys, 0);
  older["policy"] = "of another build";
  EXPECT_EQ(ParseResultLine(older.dump(), "f:1").form, CacheForm());
}

TEST(ResultStore, GoesOnBehindALineThatWasCutShort) {
  const TemporaryDirectory directory("store");
  {
    ResultStore store(directory.path(), kSettings);
    store.Append(Result("a1", "snapkv", 0.5, 1));
    store.Append(Result("a2", "snapkv", 0.5, 0));
    store.Append(Result("a2", "snapkv", 0.5, 0));  // once only
    EXPECT_EQ(store.results().size(), 2U);
    // Another process must not write at the same time.
    EXPECT_THAT(ErrorOf([&] { ResultStore(directory.path(), kSettings); }), HasSubstr("another process"));
  }
  const std::string path = directory.File("results.jsonl");
  const std::string whole = ReadFile(path, 1 << 20);
  for (size_t cut = whole.find('\n') + 1; cut < whole.size(); cut += 97) {
    WriteFile(path, whole.substr(0, cut));
    ResultStore store(directory.path(), kSettings);
    EXPECT_EQ(store.results().size(), 1U);
    EXPECT_FALSE(store.Has(Result("a2", "snapkv", 0.5, 0).key()));
    store.Append(Result("a2", "snapkv", 0.5, 0));
    EXPECT_EQ(ReadFile(path, 1 << 20), whole);
  }
}

TEST(ResultStore, RefusesOtherSettingsByName) {
  const TemporaryDirectory directory("settings");
  { ResultStore store(directory.path(), kSettings); }
  OrderedJson other = kSettings;
  other["policies"] = {"h2o"};
  EXPECT_THAT(ErrorOf([&] { ResultStore(directory.path(), other); }),
              AllOf(HasSubstr("policies"), HasSubstr("snapkv"), HasSubstr("h2o")));
  for (const char* const text : {"[]", R"({"format": "1", "settings": {}, "runs": []})"}) {
    WriteFile(directory.File("run.json"), text);
    EXPECT_THAT(ErrorOf([&] { ResultStore(directory.path(), kSettings); }), HasSubstr("run.json"));
  }
  std::filesystem::remove(directory.File("run.json"));
  WriteFile(directory.File("results.jsonl"), "");
  EXPECT_THAT(ErrorOf([&] { ResultStore(directory.path(), kSettings); }), HasSubstr("run.json"));
}

TEST(ResultStore, RefusesARunThatIsNestedDeeply) {
  const TemporaryDirectory directory("nested");
  { ResultStore store(directory.path(), kSettings); }
  // As deep as it overflowed the stack where settings are compared.
  const std::string nested = std::string(1'000'000, '[') + std::string(1'000'000, ']');
  WriteFile(directory.File("run.json"), R"({"format": 1, "settings": {"policies": )" + nested + R"(}, "runs": []})");
  const auto refused = AllOf(HasSubstr("run.json"), HasSubstr("nested"));
  EXPECT_THAT(ErrorOf([&] { ResultStore(directory.path(), kSettings); }), refused);
  EXPECT_THAT(ErrorOf([&] { LoadRun(directory.path()); }), refused);
}

TEST(ResultStore, GoesOnWithRunsThatSayMediaForContext) {
  const TemporaryDirectory directory("older");
  OrderedJson settings = kSettings;
  settings["when"] = {"prompt", "media"};
  EvalResult older = Result("a1", "snapkv", 0.5, 1);
  older.when = "media";
  {
    ResultStore store(directory.path(), settings);  // as an earlier build wrote it
    store.Append(older);
  }
  EXPECT_THAT(ReadFile(directory.File("run.json"), 1 << 20), HasSubstr("\"media\""));
  older.when = "context";
  settings["when"] = {"prompt", "context"};
  ResultStore store(directory.path(), settings);
  EXPECT_TRUE(store.Has(older.key()));
  EXPECT_EQ(store.results()[0].when, "context");
  store.WriteRun({{"command", "again"}}, true);
  EXPECT_THAT(ReadFile(directory.File("run.json"), 1 << 20), Not(HasSubstr("\"media\"")));
  EXPECT_EQ(LoadRun(directory.path()).results[0].when, "context");
  EXPECT_THAT(ReportPage(directory.path(), 20'000'000), HasSubstr("compressed before the question"));
}

TEST(ResultStore, SortsWithoutLosingAnything) {
  const TemporaryDirectory directory("sort");
  ResultStore store(directory.path(), kSettings);
  for (const char* const id : {"c1", "a1", "b1"}) store.Append(Result(id, "snapkv", 0.5, 1));
  store.Sort({"a1", "b1"}, {MakeSetting("snapkv", 0.5, KvOptions::When::kPrompt)});
  EXPECT_EQ(store.results()[0].id, "a1");
  EXPECT_EQ(store.results()[1].id, "b1");
  EXPECT_EQ(store.results()[2].id, "c1");
  store.Append(Result("d1", "snapkv", 0.5, 1));
  EXPECT_THAT(ReadFile(directory.File("results.jsonl"), 1 << 20), HasSubstr("d1"));
}

TEST(Settings, AreReadFromTheirNames) {
  const EvalSetting one = MakeSetting("snapkv+ada:window=16:pool=max", 0.2, KvOptions::When::kContext);
  EXPECT_EQ(one.kv.policy, "snapkv");
  EXPECT_EQ(one.kv.allocator, "ada");
  EXPECT_EQ(one.kv.options.at("window"), "16");
  EXPECT_EQ(one.kv.options.at("pool"), "max");
  EXPECT_EQ(*one.kv.budget, 0.2);
  EXPECT_STREQ(one.when(), "context");
  // In a list of layers "+" is a comma; in a number it is what it always was.
  for (const char* const name : {"purekv+ada:sources=1+3:below=wait", "purekv+ada:sources=1,3:below=wait"}) {
    const EvalSetting two = MakeSetting(name, 0.2, KvOptions::When::kPrompt);
    EXPECT_EQ(two.policy, name);
    EXPECT_EQ(two.kv.allocator, "ada");
    EXPECT_EQ(two.kv.options.at("sources"), "1,3");
  }
  EXPECT_EQ(MakeSetting("csp:n=1e+3", 0.2, KvOptions::When::kPrompt).kv.options.at("n"), "1e+3");
  for (const auto& [name, says] : std::vector<std::pair<std::string, std::string>>{{"nonsense", "nonsense"},
                                                                                   {"snapkv:window", "key=value"},
                                                                                   {"snapkv:window=0", "window"},
                                                                                   {"snapkv:a=1:a=2", "twice"},
                                                                                   {"snapkv+up", "up"},
                                                                                   {"random+ada", "ada"},
                                                                                   {"", "''"}}) {
    EXPECT_THAT(ErrorOf([&, &name = name] { MakeSetting(name, 0.2, KvOptions::When::kPrompt); }), HasSubstr(says));
  }
}

TEST(Summary, MeansPerSettingAndGroup) {
  std::vector<EvalResult> results = {Result("a1", "snapkv", 0.5, 1), Result("a2", "snapkv", 0.5, 0),
                                     Result("b1", "snapkv", 0.5, 1), Result("a1", "h2o", 0.5, 0)};
  results[2].type = "other, \"x\"";
  const std::vector<SummaryRow> rows = Summarise(results);
  ASSERT_EQ(rows.size(), 5U);  // snapkv: all and two types; h2o: all and one
  EXPECT_EQ(rows[0].questions, 3);
  EXPECT_EQ(rows[0].videos, 2);
  EXPECT_NEAR(rows[0].metrics.at("score").mean, 2.0 / 3, 1e-12);
  EXPECT_EQ(rows[0].metrics.at("kl").mean, 0.125);
  EXPECT_FALSE(rows[0].metrics.contains("choice"));
  EXPECT_EQ(rows[0].seconds.at("answer"), 0.75);
  EXPECT_THAT(SummaryCsv(rows), HasSubstr("prompt,snapkv,0.5,type,\"other, \"\"x\"\"\",1,1,1.00000,"));
  EXPECT_THAT(SummaryMarkdown(rows), HasSubstr("| prompt | snapkv | 0.5 | 0.667 [0.500, 1.000] |"));
  // The order in which results came must not show.
  std::swap(results[0], results[2]);
  EXPECT_EQ(Summarise(results)[0].metrics.at("score").low, rows[0].metrics.at("score").low);
  const std::vector<HeadShares> shares = SharesPerHead(results);
  EXPECT_DOUBLE_EQ(shares[0].visual[1][1], 32.0 / 80);
  EXPECT_DOUBLE_EQ(shares[0].evidence[0][0], 1.0 / 4);
}

TEST(Summary, ComparesBytesWhereTokensDoNotMeasure) {
  std::vector<EvalResult> results = {Result("a1", "snapkv", 0.5, 1), Result("b1", "snapkv", 0.5, 0)};
  results[0].bytes_full = 1 << 19;  // half of it is kept, of the other one a quarter
  std::vector<SummaryRow> rows = Summarise(results);
  EXPECT_EQ(rows[0].bytes_share, 0.375);
  EXPECT_FALSE(ComparesBytes(rows));
  EXPECT_THAT(SummaryCsv(rows), AllOf(HasSubstr(",bytes_peak,bytes_share,bits_keys,"), HasSubstr(",0.37500,0.000,")));
  const std::string table = SummaryMarkdown(rows);
  EXPECT_THAT(table, AllOf(HasSubstr("| share of bytes |"), HasSubstr(" | 0.375 | ")));
  // As many cells in every row of a table.
  std::istringstream lines(table);
  for (std::string line, head; std::getline(lines, line); head = line) {
    if (line.starts_with("|---")) {
      EXPECT_EQ(std::count(line.begin(), line.end(), '|'), std::count(head.begin(), head.end(), '|'));
    }
  }
  EXPECT_THAT(ReportCharts(rows).at("quality-prompt.svg"), HasSubstr("budget: share of the tokens kept"));
  const auto other = [&](auto change) {
    EvalResult one = Result("a1", "h2o", 0.5, 1);
    change(one);
    std::vector<EvalResult> with = results;
    with.push_back(one);
    return Summarise(with);
  };
  for (const std::vector<SummaryRow>& with :
       {other([](EvalResult& one) { one.form.keys = "int4"; }),
        other([](EvalResult& one) { one.form.values = "int8"; }),
        other([](EvalResult& one) { one.form.key_channels = 0.5; }),
        other([](EvalResult& one) { one.form.basis = "b.safetensors"; }),
        other([](EvalResult& one) { one.form.merge = "pivotal"; }), other([](EvalResult& one) { one.merged = 3; }),
        other([](EvalResult& one) { one.form.attend = "quest"; })}) {
    EXPECT_TRUE(ComparesBytes(with));
    const std::string chart = ReportCharts(with).at("quality-prompt.svg");
    EXPECT_THAT(chart, AllOf(HasSubstr("share of the bytes of the full cache"),
                             HasSubstr("snapkv: 0.5 [0, 1] at 0.375"), Not(HasSubstr("share of the tokens"))));
  }
  EXPECT_FALSE(ComparesBytes(other([](EvalResult&) {})));
  EXPECT_FALSE(ComparesBytes(other([](EvalResult& one) { one.form.store = "file"; })));
}

TEST(KeptBits, LowestBitFirst) {
  // Visual tokens 3 to 12; a head that kept 0, 3, 4 and 12.
  std::vector<int32_t> visual;
  for (int32_t i = 3; i <= 12; ++i) visual.push_back(i);
  EXPECT_EQ(KeptBits({{{0, 3, 4, 12}}}, visual), EncodeBase64(std::string("\x03\x02")));
  EXPECT_EQ(EncodeBase64("Man"), "TWFu");
  EXPECT_EQ(EncodeBase64("Ma"), "TWE=");
  EXPECT_EQ(EncodeBase64("M"), "TQ==");
  EXPECT_EQ(EncodeBase64(""), "");
}

TEST(Report, HoldsNothingThatRunsOrLoads) {
  const TemporaryDirectory directory("report");
  {
    ResultStore store(directory.path(), kSettings);
    for (const char* const policy : {"full", "<b>snapkv</b>"}) {
      for (const double budget : {0.5, 0.1}) store.Append(Result("a1", policy, policy[0] == 'f' ? 1 : budget, budget));
    }
    store.WriteRun({{"command", "purekv eval --system '</pre><img src=x onerror=alert(1)>'"}}, true);
  }
  const std::string page = ReportPage(directory.path(), 20'000'000);
  EXPECT_THAT(page, AllOf(Not(HasSubstr("<b>snapkv")), Not(HasSubstr("<img")), Not(HasSubstr("alert(1)</script>")),
                          Not(HasSubstr("src=\"http")), Not(HasSubstr("<link")), HasSubstr("&lt;b&gt;snapkv")));
  // One data element and one script, whatever answers say.
  size_t scripts = 0;
  for (size_t at = page.find("</script>"); at != std::string::npos; at = page.find("</script>", at + 1)) ++scripts;
  EXPECT_EQ(scripts, 2U);
  EXPECT_THAT(ErrorOf([] { ReportPage("/nonexistent", 1000); }), HasSubstr("/nonexistent"));
  WriteFile(directory.File("run.json"), R"({"settings": {}, "complete": "yes"})");
  EXPECT_THAT(ErrorOf([&] { ReportPage(directory.path(), 1000); }),
              AllOf(HasSubstr("run.json"), HasSubstr("complete")));
}

TEST(Report, SaysWhatItsAxisIs) {
  const TemporaryDirectory directory("axis");
  ResultStore store(directory.path(), kSettings);
  store.Append(Result("a1", "full", 1, 1));
  store.Append(Result("a1", "snapkv", 0.5, 1));
  store.WriteRun({{"command", "purekv eval"}}, true);
  EXPECT_THAT(ReportPage(directory.path(), 20'000'000),
              AllOf(HasSubstr("a share of the tokens."), Not(HasSubstr("the axis is <em>bytes</em>"))));
  EvalResult encoded = Result("a1", "snapkv:keys=int4", 0.5, 1);
  encoded.form.keys = "int4";
  store.Append(encoded);
  EXPECT_THAT(ReportPage(directory.path(), 20'000'000),
              AllOf(HasSubstr("the axis is <em>bytes</em>"), Not(HasSubstr("share of the tokens kept"))));
}

TEST(Report, OfTextsHasNoPictures) {
  const TemporaryDirectory directory("texts");
  {
    ResultStore store(directory.path(), kSettings);
    for (const char* const policy : {"full", "snapkv"}) {
      EvalResult result = Result("a1", policy, policy[0] == 'f' ? 1 : 0.5, 1);
      result.visual_tokens = result.evidence_tokens = 0;
      result.kept_visual = {{0, 0}, {0, 0}};
      result.kept_evidence.clear();
      result.metrics.erase("evidence");
      store.Append(result);
    }
    store.WriteRun({{"command", "purekv eval"}}, true);
  }
  const LoadedRun run = LoadRun(directory.path());
  for (const HeadShares& one : SharesPerHead(run.results)) EXPECT_TRUE(one.visual.empty());
  EXPECT_THAT(SummaryCsv(Summarise(run.results)), Not(HasSubstr("nan")));
  const std::string page = ReportPage(directory.path(), 20'000'000);
  EXPECT_THAT(page, AllOf(HasSubstr("2 answers to 1 questions about 1 texts."), Not(HasSubstr("id=\"heads\"")),
                          Not(HasSubstr("id=\"viewer\"")), HasSubstr("id=\"quality\""), Not(HasSubstr(">nan"))));
}

TEST(Chart, EscapesAndStandsAlone) {
  Chart chart;
  chart.title = "a < b & \"c\"";
  chart.log_x = true;
  chart.lines = {{"<x>", {{0.1, 0.5, 0.4, 0.6}, {1, 0.9, 0.9, 0.9}}}, {"empty", {}}};
  chart.reference = 0.95;
  chart.reference_name = "full";
  const std::string svg = ChartSvg(chart, true);
  EXPECT_THAT(svg, AllOf(HasSubstr("&lt;x&gt;"), HasSubstr("a &lt; b &amp; &quot;c&quot;"),
                         HasSubstr("prefers-color-scheme"), Not(HasSubstr("nan")), Not(HasSubstr("inf"))));
  EXPECT_THAT(ChartSvg(Chart(), false), Not(HasSubstr("nan")));
}

}  // namespace
}  // namespace purekv
