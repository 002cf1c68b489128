// Data sets of four formats, and what is wrong with lines that are not right.
#include "eval/dataset.h"

#include <gmock/gmock.h>

#include <string>
#include <vector>

#include "base/file.h"
#include "purekv/error.h"

namespace purekv {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

DataOptions NoFiles(bool keep_going = false) {
  DataOptions options;
  options.check_media = false;
  options.keep_going = keep_going;
  return options;
}

std::string ErrorOf(const std::string& text, DataOptions options = NoFiles()) {
  try {
    ParseDataset(text, "set.jsonl", options);
  } catch (const Error& error) {
    EXPECT_EQ(std::string(error.what()).find('\n'), std::string::npos);
    return error.what();
  }
  return "";
}

const std::string kLine = R"({"id": "a", "video": "v.mp4", "prompt": "What?", "answer": "It is red."})";

std::string With(const std::string& fields) {
  return R"({"id": "a", "video": "v.mp4", "prompt": "What?", "answer": "B", )" + fields + "}";
}

TEST(Dataset, ReadsOurLines) {
  const std::string text =
      "\n" + kLine + "\r\n\n" +
      R"({"id": "b", "images": ["1.png", "in/2.JPG"], "prompt": "Which?", "answer": "B", "type": "t",
"length": "short", "choices": ["a dog", "a cat"], "evidence": [[0, 1, 2], [3, 0, 0]], "unknown": {"x": 1}})";
  std::string one_line = text;
  one_line.erase(one_line.find("\"t\",\n") + 4, 1);
  const Dataset data = ParseDataset(one_line, "dir/set.jsonl", NoFiles());
  EXPECT_EQ(data.format, DataFormat::kPureKv);
  ASSERT_EQ(data.questions.size(), 2U);
  EXPECT_EQ(data.questions[0].media[0].path, "dir/v.mp4");
  EXPECT_EQ(data.questions[0].media[0].kind, MediaSource::Kind::kVideo);
  EXPECT_EQ(data.questions[0].prompt, "What?");
  const EvalQuestion& second = data.questions[1];
  EXPECT_EQ(second.video, "1.png in/2.JPG");
  EXPECT_EQ(second.media[1].kind, MediaSource::Kind::kImage);
  EXPECT_EQ(second.media[1].path, "dir/in/2.JPG");
  EXPECT_EQ(second.prompt,
            "Which?\nA. a dog\nB. a cat\nAnswer with the option's letter from the given choices directly.");
  EXPECT_EQ(second.length, "short");
  EXPECT_THAT(second.evidence, ElementsAre(std::array<int64_t, 3>{0, 1, 2}, std::array<int64_t, 3>{3, 0, 0}));
}

TEST(Dataset, ReadsTexts) {
  const std::string lines =
      R"({"id": "a", "text": "A red ring.\n", "prompt": "What?", "answer": "x"})"
      "\n"
      R"({"id": "b", "text": "A red ring.\n", "prompt": "Which?", "answer": "y"})"
      "\n"
      R"({"id": "c", "text_file": "in/long.txt", "prompt": "Why?", "answer": "z"})"
      "\n"
      R"({"id": "d", "video": "v.mp4", "text_file": "t.txt", "start": 1, "prompt": "Why?", "answer": "z"})";
  const Dataset data = ParseDataset(lines, "dir/set.jsonl", NoFiles());
  ASSERT_EQ(data.questions.size(), 4U);
  EXPECT_EQ(data.questions[0].text, "A red ring.\n");
  EXPECT_TRUE(data.questions[0].media.empty());
  EXPECT_EQ(data.questions[0].text_file, "");
  EXPECT_THAT(data.questions[0].video, ::testing::MatchesRegex("text [0-9a-f]+"));
  EXPECT_EQ(data.questions[0].video, data.questions[1].video);  // the same text, the same name
  EXPECT_EQ(data.questions[2].text_file, "dir/in/long.txt");
  EXPECT_EQ(data.questions[2].video, "in/long.txt");
  EXPECT_EQ(data.questions[3].video, "v.mp4 t.txt");
  EXPECT_EQ(data.questions[3].media[0].path, "dir/v.mp4");
  EXPECT_EQ(data.questions[3].media[0].start, 1);
  DataOptions options;  // files are looked for
  options.media_root = "/nonexistent";
  EXPECT_THAT(ErrorOf(R"({"id": "c", "text_file": "long.txt", "prompt": "Why?", "answer": "z"})", options),
              HasSubstr("question c: no such file: /nonexistent/long.txt"));
}

TEST(Dataset, ReadsWhatAnAnswerShallContain) {
  const Dataset data = ParseDataset(With(R"("contains": ["41", "room 7"], "lacks": ["12"])"), "set.jsonl", NoFiles());
  ASSERT_EQ(data.questions.size(), 1U);
  EXPECT_THAT(data.questions[0].contains, ElementsAre("41", "room 7"));
  EXPECT_THAT(data.questions[0].lacks, ElementsAre("12"));
}

TEST(Dataset, NamesWhatIsWrongWithALine) {
  struct Case {
    std::string line, says;
  };
  const std::vector<Case> cases = {
      {"{", "not valid JSON"},
      {"[1]x", "not valid JSON"},
      {"17", "object"},
      {"\"text\"", "object"},
      {"\xff\xfe", "not valid JSON"},
      {R"({"id": "a", "video": "v.mp4", "prompt": "W)"
       "\xc3\x28"
       R"(", "answer": "x"})",
       "UTF-8"},
      {R"({"video": "v.mp4", "prompt": "What?", "answer": "x"})", "id"},
      {R"({"id": "a", "prompt": "What?", "answer": "x"})", "video, image and images"},
      {R"({"id": "a", "video": "v.mp4", "image": "i.png", "prompt": "What?", "answer": "x"})",
       "video, image and images"},
      {R"({"id": "a", "video": "v.mp4", "image": "i.png", "text": "t", "prompt": "What?", "answer": "x"})",
       "video, image and images"},
      {R"({"id": "a", "text": "t", "text_file": "t.txt", "prompt": "What?", "answer": "x"})", "text and text_file"},
      {R"({"id": "a", "text": "", "prompt": "What?", "answer": "x"})", "text: empty"},
      {R"({"id": "a", "text": 3, "prompt": "What?", "answer": "x"})", "text"},
      {R"({"id": "a", "text_file": "../t.txt", "prompt": "What?", "answer": "x"})",
       "text_file: '../t.txt' is not a path"},
      {R"({"id": "a", "text": "t", "start": 1, "prompt": "What?", "answer": "x"})", "start, end"},
      {R"({"id": "a", "text": "t", "evidence": [[0, 0, 0]], "prompt": "What?", "answer": "x"})", "evidence"},
      {R"({"id": "a", "video": "v.mp4", "answer": "x"})", "prompt"},
      {R"({"id": "a", "video": "v.mp4", "prompt": "What?"})", "answer"},
      {R"({"id": 3, "video": "v.mp4", "prompt": "What?", "answer": "x"})", "id"},
      {R"({"id": "", "video": "v.mp4", "prompt": "What?", "answer": "x"})", "id: empty"},
      {R"({"id": "a", "id": "b", "video": "v.mp4", "prompt": "What?", "answer": "x"})", "twice"},
      {R"({"id": "a", "video": "../v.mp4", "prompt": "What?", "answer": "x"})", "not a path below"},
      {R"({"id": "a", "video": "/etc/passwd", "prompt": "What?", "answer": "x"})", "not a path below"},
      {R"({"id": "a", "video": "x\u0000y", "prompt": "What?", "answer": "x"})", "not a path below"},
      {R"({"id": "a", "images": [], "prompt": "What?", "answer": "x"})", "images: a list of strings"},
      {R"({"id": "a", "images": ["x.png", 3], "prompt": "What?", "answer": "x"})", "entry 1"},
      {With(R"("evidence": 3)"), "evidence"},
      {With(R"("evidence": [[1, 2]])"), "cell 0"},
      {With(R"("evidence": [[1, 2, 3], [1, -2, 3]])"), "cell 1"},
      {With(R"("evidence": [[1, 2, 99999999999999999999]])"), "cell 0"},
      {With(R"("evidence": [[1, 2, 18446744073709551615]])"), "cell 0"},
      {With(R"("evidence": [[1, 2, 1e400]])"), "set.jsonl:1"},
      {With(R"("evidence": [[1, 2, 0.5]])"), "cell 0"},
      {With(R"("contains": "41")"), "contains: a list of strings"},
      {With(R"("contains": [])"), "contains: a list of strings"},
      {With(R"("contains": ["41", "?!"])"), "contains: '?!' holds no word"},
      {With(R"("contains": ["41"], "lacks": [3])"), "lacks: entry 0"},
      {With(R"("contains": ["41"], "lacks": ["."])"), "lacks: '.' holds no word"},
      {With(R"("contains": ["41", "Room 7"], "lacks": ["room"])"),
       "lacks: 'room' stands in a text that a right answer"},
      {With(R"("lacks": ["41"])"), "lacks: only beside contains"},
      {With(R"("choices": ["a dog", "a cat"], "contains": ["a dog"])"), "contains: not beside choices"},
      {With(R"("choices": "no list")"), "choices"},
      {With(R"("choices": ["one"])"), "none of the letters A to A"},
      {R"({"id": ")" + std::string(501, 'x') + R"(", "video": "v.mp4", "prompt": "What?", "answer": "x"})",
       "501 bytes"},
      {kLine + "\n" + kLine, "set.jsonl:2: id: 'a' appears twice"},
      {"", "holds no question"},
      {"\n \n", "holds no question"},
  };
  for (const Case& one : cases) {
    EXPECT_THAT(ErrorOf(one.line), AllOf(HasSubstr("set.jsonl"), HasSubstr(one.says))) << one.line.substr(0, 100);
  }
}

TEST(Dataset, KeepGoingLosesOnlyTheWrongLines) {
  const std::string other = R"({"id": "b", "video": "v.mp4", "prompt": "What?", "answer": "x"})";
  const Dataset data = ParseDataset(kLine + "\nnonsense\n" + kLine + "\n" + other + "\n", "set.jsonl", NoFiles(true));
  ASSERT_EQ(data.questions.size(), 2U);
  EXPECT_EQ(data.questions[1].id, "b");
  ASSERT_EQ(data.problems.size(), 2U);
  EXPECT_EQ(data.problems[0].where, "set.jsonl:2");
  EXPECT_THAT(data.problems[0].what.text, HasSubstr("not valid JSON"));
  EXPECT_EQ(data.problems[1].where, "set.jsonl:3");
}

TEST(Dataset, AMissingVideoIsNamed) {
  DataOptions options;
  options.media_root = "/nonexistent/root";
  EXPECT_THAT(ErrorOf(kLine, options), AllOf(HasSubstr("set.jsonl:1"), HasSubstr("/nonexistent/root/v.mp4")));
}

TEST(Dataset, ReadsVideoMme) {
  const std::string nested = R"([{"video_id": "001", "duration": "short", "domain": "Knowledge",
    "url": "https://www.youtube.com/watch?v=fFjv93ACGo8", "questions": [{"question_id": "001-1", "task_type": "Counting Problem",
    "question": "How many?", "options": ["A. Apples.", "B. Candles.", "C. Berries.", "D. The same."], "answer": "C"}]}])";
  const Dataset data = ParseDataset(nested, "mme.json", NoFiles());
  EXPECT_EQ(data.format, DataFormat::kVideoMme);
  ASSERT_EQ(data.questions.size(), 1U);
  const EvalQuestion& one = data.questions[0];
  EXPECT_EQ(one.id, "001-1");
  EXPECT_EQ(one.type, "Counting Problem");
  EXPECT_EQ(one.length, "short");
  EXPECT_EQ(one.answer, "C");
  EXPECT_THAT(one.choices, ElementsAre("Apples.", "Candles.", "Berries.", "The same."));
  EXPECT_EQ(one.media[0].path, "./data/fFjv93ACGo8.mp4");
  EXPECT_THAT(one.prompt,
              HasSubstr("How many?\nA. Apples.\nB. Candles.\nC. Berries.\nD. The same.\nThe best answer is:"));
  // One row per question, as in the published table.
  const std::string flat = R"([{"video_id": "001", "duration": "long", "videoID": "abc", "question_id": "001-2",
    "task_type": "OCR", "question": "Which?", "options": ["A. x", "B. y"], "answer": "A"}])";
  EXPECT_EQ(ParseDataset(flat, "mme.json", NoFiles()).questions[0].media[0].path, "./data/abc.mp4");
  const std::string wrong =
      R"([{"videoID": "../../x", "question_id": "1", "question": "?", "options": ["A. x"], "answer": "A"}])";
  EXPECT_THAT(ErrorOf(wrong), HasSubstr("not a path below"));
  const std::string letter =
      R"([{"videoID": "x", "question_id": "1", "question": "?", "options": ["A. x"], "answer": "B"}])";
  EXPECT_THAT(ErrorOf(letter), HasSubstr("none of the letters"));
}

TEST(Dataset, ReadsMvBench) {
  const std::string text = R"([{"video": "166583.webm", "question": "What is done?",
    "candidates": ["Not sure", "Scattering something down", "Piling something up"], "answer": "Piling something up"},
    {"video": "b.mp4", "question": "?", "candidates": ["x", "y"], "answer": "x", "start": 1.5, "end": 3.0},
    {"video": "b.mp4", "question": "?", "candidates": ["x", "y"], "answer": "y", "start": 3, "end": 1.5}])";
  const Dataset data = ParseDataset(text, "dir/action_antonym.json", NoFiles(true));
  EXPECT_EQ(data.format, DataFormat::kMvBench);
  ASSERT_EQ(data.questions.size(), 2U);
  EXPECT_EQ(data.questions[0].id, "action_antonym-0");
  EXPECT_EQ(data.questions[0].type, "action_antonym");
  EXPECT_EQ(data.questions[0].answer, "C");
  EXPECT_FALSE(data.questions[0].media[0].start || data.questions[0].media[0].end);
  EXPECT_EQ(data.questions[1].media[0].start, 1.5);
  EXPECT_EQ(data.questions[1].media[0].end, 3.0);
  ASSERT_EQ(data.problems.size(), 1U);
  EXPECT_THAT(data.problems[0].what.text, HasSubstr("end: 1.5 is not after the start, 3"));
  EXPECT_THAT(ErrorOf(R"([{"video": "a", "question": "?", "candidates": ["x"], "answer": "z"}])"),
              HasSubstr("candidates"));
}

TEST(Dataset, APartOfAVideoIsOneOfAVideoFile) {
  const Dataset data = ParseDataset(With(R"("start": 2)"), "set.jsonl", NoFiles());
  EXPECT_EQ(data.questions.at(0).media[0].start, 2.0);
  EXPECT_FALSE(data.questions.at(0).media[0].end);
  EXPECT_THAT(ErrorOf(With(R"("start": "2")")), HasSubstr("start"));
  EXPECT_THAT(ErrorOf(With(R"("start": -1)")), HasSubstr("start"));
  EXPECT_THAT(ErrorOf(With(R"("end": 0)")), HasSubstr("end: 0 is not after the start"));
  EXPECT_THAT(ErrorOf(R"({"id": "a", "video": "v.npy", "prompt": "?", "answer": "B", "end": 2})"),
              HasSubstr("'v.npy' is none"));
  EXPECT_THAT(ErrorOf(R"({"id": "a", "images": ["v.png", "w.png"], "prompt": "?", "answer": "B", "end": 2})"),
              HasSubstr("one video file"));
}

TEST(Dataset, ReadsMileBench) {
  const std::string text =
      R"({"meta_data": {"dataset": "ActionLocalization", "task_instruction": ["Look.", "Look well."]},
    "data": [{"sample_id": 7, "task_instruction_id": 1, "task_instance": {"context": "{image#1} and {image#2}: which?",
    "images_path": ["a.jpg", "b.jpg"], "choice_list": ["one", "two"]}, "response": "two"},
    {"sample_id": "x", "task_instruction_id": 0, "task_instance": {"context": "Describe {table#1}", "images_path": ["a.jpg"]},
    "response": "A table."},
    {"sample_id": 9, "task_instruction_id": 2, "task_instance": {"context": "c", "images_path": ["a.jpg"]}, "response": "r"}]})";
  const Dataset data = ParseDataset(text, "m/set.json", NoFiles(true));
  EXPECT_EQ(data.format, DataFormat::kMileBench);
  ASSERT_EQ(data.questions.size(), 2U);
  EXPECT_EQ(data.questions[0].id, "ActionLocalization-7");
  EXPECT_EQ(data.questions[0].answer, "B");
  EXPECT_THAT(data.questions[0].media_texts, ElementsAre("Look well.\n", " and "));
  EXPECT_THAT(data.questions[0].prompt, HasSubstr(": which?\nA. one\nB. two"));
  EXPECT_EQ(data.questions[0].media[1].path, "m/images/b.jpg");
  EXPECT_THAT(data.questions[1].media_texts, ElementsAre("Look.\nDescribe "));
  EXPECT_EQ(data.questions[1].prompt, "");
  EXPECT_TRUE(data.questions[1].choices.empty());
  ASSERT_EQ(data.problems.size(), 1U);
  EXPECT_THAT(data.problems[0].what.text, HasSubstr("task_instruction_id"));
}

TEST(Dataset, MileBenchsImagesStandWhereTheContextNamesThem) {
  const auto read = [](const std::string& context) {
    const std::string text = R"({"meta_data": {"dataset": "T", "task_instruction": ["Look."]}, "data": [{"sample_id": 1,
      "task_instruction_id": 0, "response": "r", "task_instance": {"images_path": ["1", "2", "3"], "context": ")" +
                             context + R"("}}]})";
    const EvalQuestion question = ParseDataset(text, "m/set.json", NoFiles()).questions.at(0);
    std::string all;
    for (size_t i = 0; i < question.media.size(); ++i) {
      all += question.media_texts.at(i) + "<" + question.media[i].path.substr(9) + ">";
    }
    return all + question.prompt;
  };
  EXPECT_EQ(read("{image#3}{table#1} or {image#2}?"), "Look.\n<3><1> or <2>?");
  EXPECT_EQ(read("{image#1}, {image#1}, {image#2} {image#3}."), "Look.\n<1>, [image 1], <2> <3>.");
  EXPECT_EQ(read("{image#2} which?"), "Look.\n<1>\n<3>\n<2> which?");
  EXPECT_EQ(read("{image#4} {image#} {image#x} {image#2 {image#0} {image#99999999999999999999} {"),
            "Look.\n<1>\n<2>\n<3>\n{image#4} {image#} {image#x} {image#2 {image#0} {image#99999999999999999999} {");
}

TEST(Dataset, TextsStandAmongMediaOneInFrontOfEach) {
  const auto with = [](const std::string& texts, const std::string& prompt) {
    return R"({"id": "a", "images": ["v.png", "w.png"], "prompt": ")" + prompt +
           R"(", "answer": "B", "media_texts": )" + texts + "}";
  };
  const Dataset data = ParseDataset(with(R"(["First ", ""])", ""), "set.jsonl", NoFiles());
  EXPECT_THAT(data.questions.at(0).media_texts, ElementsAre("First ", ""));
  EXPECT_EQ(data.questions.at(0).prompt, "");
  EXPECT_THAT(ErrorOf(with(R"(["one"])", "?")), HasSubstr("media_texts: 1 texts for 2 media"));
  EXPECT_THAT(ErrorOf(with("[]", "?")), HasSubstr("media_texts: a list of strings"));
  EXPECT_THAT(ErrorOf(with(R"(["a", 1])", "?")), HasSubstr("media_texts: entry 1"));
  EXPECT_THAT(ErrorOf(R"({"id": "a", "text": "t", "prompt": "?", "answer": "B", "media_texts": ["x"]})"),
              HasSubstr("media_texts: 1 texts for 0 media"));
  EXPECT_THAT(ErrorOf(R"({"id": "a", "image": "v.png", "prompt": "", "answer": "B"})"), HasSubstr("prompt: empty"));
}

TEST(Dataset, AnUnknownDocumentSaysHowToNameIt) {
  EXPECT_THAT(ErrorOf(R"([{"a": 1}])"), HasSubstr("eval.data_format"));
  DataOptions options = NoFiles();
  options.format = DataFormat::kMvBench;
  EXPECT_THAT(ErrorOf(R"({"a": 1})", options), HasSubstr("a list of questions"));
}

TEST(Dataset, TheDemoModelsQuestionsAreAllRead) {
  const Dataset data = LoadDataset(std::string(PUREKV_SOURCE_DIR) + "/models/demo/eval/questions.jsonl", {});
  EXPECT_EQ(data.questions.size(), 768U);
  EXPECT_TRUE(data.problems.empty());
}

}  // namespace
}  // namespace purekv
