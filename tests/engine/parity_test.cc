// The same answers as Hugging Face transformers 4.57.1 gives (docs/parity.md): every stage, greedy tokens, scores,
// second turns.
#include <gtest/gtest.h>

#include <cstdio>
#include <map>
#include <string>
#include <vector>

#include "checkpoint/random_tensors.h"
#include "models/language_model.h"
#include "purekv/session.h"
#include "support/arrays.h"
#include "support/reference_model.h"

namespace purekv {
namespace {

// Relative error of a stage in f32. The noise between two exact f32 orders of summation is 1e-6 to 3e-6 here; a wrong
// epsilon or activation shows from 2e-4 on.
constexpr double kStageTolerance = 3e-5;

struct Place {
  std::string model;
  size_t prompt;
};

std::vector<Place> AllPrompts() {
  std::vector<Place> places;
  std::vector<std::string> names = ReferenceCases();
  for (const std::string& name : OneAxisReferenceCases()) names.push_back(name);
  for (const std::string& name : TextReferenceCases()) names.push_back(name);
  for (const std::string& name : names) {
    const Json json = ReadJson(ReferencePath(name) + "/case.json");
    for (size_t i = 0; i < json.at("prompts").size(); ++i) places.push_back({name, i});
  }
  return places;
}

class Parity : public testing::TestWithParam<Place> {
 protected:
  Parity()
      : model_(GetParam().model),
        prompt_(model_.prompts().at(GetParam().prompt)),
        golden_path_(model_.path() + "/" + prompt_.at("name").get<std::string>()),
        golden_(ReadJson(golden_path_ + "/golden.json")),
        dump_("dump") {}

  std::shared_ptr<const Model> Load(Dtype dtype) const {
    return Model::Load(model_.directory(), {.activations = dtype});
  }
  std::vector<int32_t> Ids(const char* key) const { return golden_.at(key).get<std::vector<int32_t>>(); }

  // Compares dumped `stage` with the reference's projection of every row.
  void CompareStage(const std::string& stage) const {
    const Array<float> ours = ReadFloatArray(dump_.File(stage + ".npy"));
    const Array<float> projected = ReadFloatArray(golden_path_ + "/" + stage + ".proj.npy");
    const Array<float> rows = ReadFloatArray(golden_path_ + "/" + stage + ".rows.npy");
    const double norm = golden_.at("norms").at(stage).get<double>();
    ASSERT_EQ(ours.rows(), projected.rows()) << stage;
    EXPECT_NEAR(Norm(ours.data), norm, kStageTolerance * norm) << stage;
    std::vector<float> projection = RandomProjection(ours.cols());
    double squared = 0;
    for (int64_t row = 0; row < ours.rows(); ++row) {
      double row_squared = 0;
      for (int64_t j = 0; j < 4; ++j) {
        double sum = 0;
        for (int64_t i = 0; i < ours.cols(); ++i) {
          sum += static_cast<double>(ours.Row(row)[static_cast<size_t>(i)]) *
                 static_cast<double>(projection[static_cast<size_t>(i * 4 + j)]);
        }
        const double difference = sum - static_cast<double>(projected.Row(row)[static_cast<size_t>(j)]);
        row_squared += difference * difference;
      }
      // A row of small values must be right by its own measure, not by its neighbours'.
      const double scale = std::max(Norm(ours.Row(row)), 1e-3 * norm);
      EXPECT_LT(std::sqrt(row_squared), 1e-4 * scale) << stage << " row " << row;
      squared += row_squared;
    }
    EXPECT_LT(std::sqrt(squared), kStageTolerance * norm) << stage;
    const std::vector<int64_t> kept = {0, 1, ours.rows() - 2, ours.rows() - 1};
    for (size_t i = 0; i < kept.size(); ++i) {
      const auto reference = rows.Row(static_cast<int64_t>(i));
      EXPECT_LT(Distance(ours.Row(kept[i]), reference), 1e-4 * std::max(Norm(reference), 1e-3 * norm))
          << stage << " row " << kept[i];
    }
  }

  // The projection of tools/reference: the hash of random_tensors.h without scale, which its matrices carry.
  static std::vector<float> RandomProjection(int64_t columns) {
    std::vector<float> values = RandomTensor("projection", {columns, 4}, 0);
    // A matrix of this shape is scaled by 1.5 sqrt(3) / sqrt(4); undo it.
    const auto scale = static_cast<float>(1.5 * std::sqrt(3.0) / 2.0);
    for (float& value : values) value /= scale;
    return values;
  }

  ReferenceModel model_;
  Json prompt_;
  std::string golden_path_;
  Json golden_;
  TemporaryDirectory dump_;
};

TEST_P(Parity, EveryStageInF32) {
  const auto model = Load(Dtype::kF32);
  SessionOptions options;
  options.dump_directory = dump_.path();
  Session session(model, options);
  const PromptInfo info = session.Read(model_.FirstTurn(prompt_));
  EXPECT_EQ(info.ids, Ids("input_ids"));
  ASSERT_EQ(info.media.size(), golden_.at("grid").size());
  for (size_t i = 0; i < info.media.size(); ++i) {
    const auto grid = golden_.at("grid").at(i).get<std::vector<int64_t>>();
    EXPECT_EQ((std::vector<int64_t>{info.media[i].grid.begin(), info.media[i].grid.end()}), grid);
  }
  const Array<int32_t> positions = ReadIntArray(dump_.File("position_ids.npy"));
  const Array<int32_t> expected = ReadIntArray(golden_path_ + "/position_ids.npy");
  EXPECT_EQ(positions.shape, expected.shape);
  EXPECT_EQ(positions.data, expected.data);
  for (const auto& [stage, norm] : golden_.at("norms").items()) CompareStage(stage);

  const Array<float> logits = ReadFloatArray(golden_path_ + "/logits.npy");
  const Array<float> ours = ReadFloatArray(dump_.File("logits.npy"));
  double mean = 0;
  for (const float value : logits.data) mean += static_cast<double>(value) / static_cast<double>(logits.data.size());
  double variance = 0;
  for (const float value : logits.data) {
    variance += (static_cast<double>(value) - mean) * (static_cast<double>(value) - mean) /
                static_cast<double>(logits.data.size());
  }
  const double rms = Distance(ours.data, logits.data) / std::sqrt(static_cast<double>(logits.data.size()));
  EXPECT_LT(rms, 1e-4 * std::sqrt(variance));
  std::printf("[ figure   ] %s/%s: f32 logits off by %.1e of their standard deviation\n", GetParam().model.c_str(),
              prompt_.at("name").get<std::string>().c_str(), rms / std::sqrt(variance));
}

void ExpectAnswer(const Answer& answer, const Json& golden) {
  EXPECT_EQ(answer.ids, golden.at("ids").get<std::vector<int32_t>>());
  EXPECT_EQ(answer.text, golden.at("answer").get<std::string>());
  EXPECT_EQ(answer.finish == Answer::Finish::kStop, golden.at("finish") == "stop");
  const auto logprobs = golden.at("logprobs").get<std::vector<double>>();
  ASSERT_EQ(answer.logprobs.size(), logprobs.size());
  for (size_t i = 0; i < logprobs.size(); ++i)
    EXPECT_NEAR(static_cast<double>(answer.logprobs[i]), logprobs[i], 1e-3) << i;
}

TEST_P(Parity, GreedyAnswersAndASecondTurn) {
  const auto model = Load(Dtype::kF32);
  Session session(model, {});
  session.Read(model_.FirstTurn(prompt_));
  std::string streamed;
  const Answer answer = session.Generate({.max_new_tokens = 32}, [&](const std::string& text) { streamed += text; });
  ExpectAnswer(answer, golden_.at("generated"));
  EXPECT_EQ(streamed, answer.text);
  if (golden_.contains("second_turn")) {
    const Json& second = golden_.at("second_turn");
    Turn turn;
    turn.prompt = second.at("text").get<std::string>();
    session.Read(turn);
    ExpectAnswer(session.Generate({.max_new_tokens = 16}, nullptr), second);
  }
}

TEST_P(Parity, RepetitionPenaltyAndScores) {
  const auto model = Load(Dtype::kF32);
  Session session(model, {});
  session.Read(model_.FirstTurn(prompt_));
  const auto penalised = golden_.at("generated_penalty_1.05").at("ids").get<std::vector<int32_t>>();
  GenerateOptions generate;
  generate.max_new_tokens = static_cast<int64_t>(penalised.size());
  generate.repetition_penalty = 1.05F;
  EXPECT_EQ(session.Generate(generate, nullptr).ids, penalised);

  Session other(model, {});
  other.Read(model_.FirstTurn(prompt_));
  const Json& golden = golden_.at("score");
  EXPECT_EQ(other.Encode(golden.at("answer").get<std::string>()), golden.at("ids").get<std::vector<int32_t>>());
  const ScoreResult score = other.Score(golden.at("ids").get<std::vector<int32_t>>(), true);
  EXPECT_EQ(score.top1, golden.at("top1").get<std::vector<int32_t>>());
  const auto logprobs = golden.at("logprobs").get<std::vector<double>>();
  ASSERT_EQ(score.logprobs.size(), logprobs.size());
  for (size_t i = 0; i < logprobs.size(); ++i) EXPECT_NEAR(static_cast<double>(score.logprobs[i]), logprobs[i], 1e-3);
  EXPECT_EQ(static_cast<int64_t>(score.logits.size()),
            static_cast<int64_t>(logprobs.size()) * model->info().vocabulary);
}

TEST_P(Parity, BlocksAndChunksChangeRoundingOnly) {
  const auto model = Load(Dtype::kF32);
  std::vector<std::vector<float>> logits;
  const std::vector<std::pair<int64_t, int64_t>> ways = {{0, 0}, {1, 0}, {7, 0}, {64, 13}, {5, 3}};
  for (const auto& [block, chunk] : ways) {
    SessionOptions options;
    options.dump_directory = dump_.path();
    options.block_rows = block;
    options.chunk_tokens = chunk;
    options.kv.when = chunk > 0 ? KvOptions::When::kContext : KvOptions::When::kPrompt;
    Session session(model, options);
    session.Read(model_.FirstTurn(prompt_));
    logits.push_back(ReadFloatArray(dump_.File("logits.npy")).data);
    // 1.5e-5 is what Gemma's norms make of sums in another order on AVX2; a wrong block is off by much more.
    EXPECT_LT(Distance(logits.back(), logits.front()), 3e-5 * Norm(logits.front()))
        << "block " << block << " chunk " << chunk;
  }
}

TEST_P(Parity, BF16IsNearerThanTwiceHuggingFaces) {
  const auto model = Load(Dtype::kBF16);
  SessionOptions options;
  options.dump_directory = dump_.path();
  Session session(model, options);
  session.Read(model_.FirstTurn(prompt_));
  const Json& golden = golden_.at("bf16");
  const auto rows = golden.at("rows").get<std::vector<int64_t>>();
  const auto reference_kl = golden.at("kl_rows").get<std::vector<double>>();
  const Array<float> reference = ReadFloatArray(golden_path_ + "/logits_rows.npy");
  char name[32];
  std::snprintf(name, sizeof(name), "hidden_%02d.npy", static_cast<int>(model->info().layers));
  const Array<float> hidden = ReadFloatArray(dump_.File(name));
  Matrix<float> one(1, hidden.cols());
  Matrix<float> logits(1, model->info().vocabulary);
  double ours = 0;
  double theirs = 0;
  for (size_t i = 0; i < rows.size(); ++i) {
    const auto row = hidden.Row(rows[i]);
    std::copy(row.begin(), row.end(), one.data());
    model->internals().decoder().Logits(one.View(), logits.View());
    ours += KlDivergence(reference.Row(static_cast<int64_t>(i)), logits.View().RowSpan(0)) /
            static_cast<double>(rows.size());
    theirs += reference_kl[i] / static_cast<double>(rows.size());
  }
  std::printf("[ figure   ] %s/%s: bf16 mean KL %.1e, Hugging Face %.1e\n", GetParam().model.c_str(),
              prompt_.at("name").get<std::string>().c_str(), ours, theirs);
  EXPECT_LT(ours, 2 * theirs);
}

INSTANTIATE_TEST_SUITE_P(Reference, Parity, testing::ValuesIn(AllPrompts()), [](const auto& info) {
  const Json json = ReadJson(ReferencePath(info.param.model) + "/case.json");
  return info.param.model + "_" + json.at("prompts").at(info.param.prompt).at("name").template get<std::string>();
});

}  // namespace
}  // namespace purekv
