// What the report's viewer reads from a run's directory: files that anybody may have written or cut short.
#include "eval/report_viewer.h"

#include <gmock/gmock.h>

#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "base/file.h"
#include "purekv/error.h"
#include "support/reference_model.h"

namespace purekv {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::SizeIs;

std::vector<EvalResult> ResultsOf(const std::vector<std::string>& ids) {
  std::vector<EvalResult> results;
  for (const std::string& id : ids) {
    EvalResult& one = results.emplace_back();
    one.id = id;
    one.prompt = "What of " + id + "?";
    one.policy = "full";
    one.when = "prompt";
  }
  return results;
}

// A sound sheet of two tiles, 2 x 3 and 1 x 2 cells.
OrderedJson Sheet() {
  return OrderedJson::parse(R"({"tile": [32, 48], "per_row": 1, "cells": [[2, 3], [1, 2]], "video": "v.mp4",
      "questions": [{"id": "a", "evidence": [[0, 0, 0], [0, 1, 2], [1, 0, 1]]}, {"id": "b", "evidence": []},
                    {"id": "c"}]})");
}

class StoredVideosTest : public ::testing::Test {
 protected:
  StoredVideosTest() {
    std::filesystem::create_directories(directory_.File("frames"));
    WriteFile(directory_.File("frames/0.jpg"), "a picture");
  }
  std::vector<ViewerVideo> Read(const std::string& sheet) const {
    WriteFile(directory_.File("frames/0.json"), sheet);
    return StoredVideos(directory_.path(), ResultsOf({"a", "b", "c"}));
  }
  // Any exception but Error fails the test: its message would not name the file.
  std::string ErrorOf(const std::string& sheet) const {
    try {
      Read(sheet);
    } catch (const Error& error) {
      return error.what();
    }
    return "";
  }
  TemporaryDirectory directory_{"sheets"};
};

TEST_F(StoredVideosTest, EvidenceIsCountedThroughTheTiles) {
  const std::vector<ViewerVideo> videos = Read(Sheet().dump());
  ASSERT_THAT(videos, SizeIs(1));
  EXPECT_EQ(videos[0].name, "v.mp4");
  EXPECT_EQ(videos[0].jpeg, "a picture");
  EXPECT_EQ(videos[0].sheet, OrderedJson::parse(R"({"tile": [32, 48], "per_row": 1, "cells": [[2, 3], [1, 2]]})"));
  ASSERT_THAT(videos[0].questions, SizeIs(3));
  EXPECT_EQ(videos[0].questions[0].prompt, "What of a?");
  EXPECT_THAT(videos[0].questions[0].evidence, ElementsAre(0, 5, 7));
  EXPECT_THAT(videos[0].questions[1].evidence, IsEmpty());
  EXPECT_THAT(videos[0].questions[2].evidence, IsEmpty());
}

TEST_F(StoredVideosTest, AnswersSayWhatTokensDoNot) {
  const ViewerVideo video = Read(Sheet().dump())[0];
  std::vector<EvalResult> results = ResultsOf({"a", "a", "a"});
  for (EvalResult& one : results) one.kept = "AA==";
  results[1].policy = "h2o:keys=int4:merge=pivotal";
  results[1].form.keys = "int4";
  results[1].form.merge = "pivotal";
  results[1].bits_keys = 5.125;
  results[1].bits_values = 16;
  results[1].merged = 30.25;
  results[2].policy = "full:attend=quest";
  results[2].form.attend = "quest";
  results[2].entries_attended_mean = 64.5;
  results[2].bytes_attended_mean = 3 << 20;
  int64_t bytes = 0;
  const OrderedJson answers = ViewerData(results).Video(video, &bytes)["questions"][0]["answers"];
  ASSERT_THAT(answers, SizeIs(3));
  EXPECT_EQ(answers[0][8], "");
  EXPECT_EQ(answers[1][8],
            " Keys 5.12 and values 16.00 bits per element. Per layer and head 30.2 entries were merged into "
            "others.");
  EXPECT_EQ(answers[2][8], " A step read 64.5 entries of a head and 3.00 MiB in all.");
}

TEST_F(StoredVideosTest, QuestionsWithoutResultsAreLeftOut) {
  OrderedJson sheet = Sheet();
  sheet["questions"].push_back({{"id", "stopped before"}, {"evidence", {{9, 9, 9}}}});
  EXPECT_THAT(Read(sheet.dump())[0].questions, SizeIs(3));
}

TEST_F(StoredVideosTest, AWrongSheetEndsInOneLineThatNamesFileAndPlace) {
  struct Case {
    std::string at, value, says;  // JSON pointer, what stands there, what the message names beside the file
  };
  const std::string tile = "/tile";
  const std::string first = "/questions/0/evidence";
  for (const Case& one : std::vector<Case>{
           {"", "[]", "object"},
           {tile, "null", "\"tile\""},
           {tile, "\"32\"", "\"tile\""},
           {tile, "[32]", "[height, width]"},
           {tile, "[32, 0]", "from 1"},
           {tile, "[32, -48]", "from 1"},
           {tile, "[32, 48.5]", "whole numbers"},
           {"/per_row", "0", "per_row"},
           {"/per_row", "\"1\"", "per_row"},
           {"/cells", "{}", "\"cells\""},
           {"/cells", "[]", "\"cells\""},
           {"/cells/1", "3", "\"cells\"[1]"},
           {"/cells/1", "[]", "\"cells\"[1]"},
           {"/cells/1", "[1]", "\"cells\"[1]"},
           {"/cells/1", "[\"1\", 2]", "[rows, columns]"},
           {"/cells/1", "[1, 18446744073709551615]", "1000000"},
           {"/cells/1", "[3037000500, 3037000500]", "1000000"},  // their product does not fit
           {"/video", "7", "\"video\""},
           {"/questions", "{\"id\": \"a\"}", "\"questions\""},
           {"/questions/1", "\"b\"", "\"questions\"[1]"},
           {"/questions/1/id", "1", "\"questions\"[1]"},
           {first, "\"all\"", "\"evidence\""},
           {first + "/1", "[0, 0]", "\"evidence\"[1]"},
           {first + "/1", "[0, \"1\", 2]", "\"evidence\"[1]"},
           {first + "/1", "[0, 1, null]", "[slice, row, column]"},
           {first + "/1", "[0, -1, 2]", "from 0"},
           {first + "/1", "[2, 0, 0]", "slice 2"},
           {first + "/1", "[0, 2, 0]", "row 2"},
           {first + "/1", "[1, 0, 2]", "column 2"},
       }) {
    OrderedJson sheet = Sheet();
    sheet[OrderedJson::json_pointer(one.at)] = OrderedJson::parse(one.value);
    EXPECT_THAT(ErrorOf(sheet.dump()),
                AllOf(HasSubstr(directory_.File("frames/0.json")), HasSubstr(one.says), Not(HasSubstr("\n"))))
        << one.at << ": " << one.value;
  }
  for (const char* const key : {"tile", "per_row", "cells", "video", "questions"}) {
    OrderedJson sheet = Sheet();
    sheet.erase(key);
    EXPECT_THAT(ErrorOf(sheet.dump()), AllOf(HasSubstr("frames/0.json"), HasSubstr(key)));
  }
  for (const std::string& text : {std::string(), std::string("{"), std::string(100'000, '['), Sheet().dump() + "x"}) {
    EXPECT_THAT(ErrorOf(text), AllOf(HasSubstr("frames/0.json"), Not(HasSubstr("[json.exception"))));
  }
}

TEST_F(StoredVideosTest, APictureThatIsMissingIsNamed) {
  std::filesystem::remove(directory_.File("frames/0.jpg"));
  EXPECT_THAT(ErrorOf(Sheet().dump()), HasSubstr("frames/0.jpg"));
}

}  // namespace
}  // namespace purekv
