// One token of each of many sequences: what a sequence gets does not depend on those beside it.
#include "engine/decode_step.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <memory>
#include <random>
#include <vector>

#include "engine/conversation.h"
#include "engine/policy_observer.h"
#include "engine/prefill_attention.h"
#include "engine/prefill_pass.h"
#include "engine/retrieval_observer.h"
#include "kernels/testing.h"
#include "models/language_model.h"
#include "purekv/model.h"
#include "support/reference_model.h"

namespace purekv {
namespace {

KvOptions Setting(const std::string& policy, std::optional<int64_t> tokens,
                  std::map<std::string, std::string> options = {}) {
  KvOptions kv;
  kv.policy = policy;
  kv.tokens = tokens;
  kv.options = std::move(options);
  return kv;
}

// Every step reads some of what is there.
KvOptions Looking(const std::string& view) {
  KvOptions kv;
  kv.attend.view = view;
  kv.attend.tokens = 20;
  kv.attend.options = {{"attend_page", "4"}, {"attend_dense_layers", "0"}};
  if (view != "quest") kv.attend.options.insert({{"attend_sinks", "4"}, {"attend_local", "8"}});
  return kv;
}

// Policies that grow, that evict at every step, that compress every few steps, another softmax, and views.
std::vector<KvOptions> Settings() {
  return {Setting("full", {}),
          Setting("h2o", 20),
          Setting("snapkv", 24, {{"decode_every", "3"}}),
          Looking("attention-predictor"),
          Setting("purekv", 30, {{"n-attn", "1"}}),
          Looking("quest"),
          Looking("actqkv"),
          Setting("full", {}, {{"n-attn", "2"}})};
}

// A sequence that has read `tokens` tokens of text.
Sequence Read(const Decoder& decoder, const KvOptions& kv, int64_t tokens, uint32_t seed) {
  const DecoderConfig& config = decoder.config();
  std::mt19937 random(seed);
  std::vector<int32_t> ids;
  std::vector<Position> positions;
  for (int32_t i = 0; i < tokens; ++i) {
    ids.push_back(static_cast<int32_t>(random() % static_cast<uint32_t>(config.vocabulary)));
    positions.push_back({i, i, i});
  }
  CopyingHeads copying(static_cast<size_t>(config.layers), std::vector<double>(static_cast<size_t>(config.kv_heads)));
  for (size_t layer = 0; layer < copying.size(); ++layer) copying[layer][0] = 0.1 * static_cast<double>(layer);
  Sequence sequence({kv,
                     decoder.cache_spec(),
                     config.heads,
                     config.rope(0),
                     {.copying = copying, .bases = {}, .predictor = nullptr}});
  sequence.compression().SetPrefix(tokens);
  sequence.compression().BeginPrefix(0, tokens);
  sequence.Append(ids, TokenLayout(ids.size()), positions);
  Matrix<float> hidden(tokens, config.hidden);
  decoder.Embed(ids, hidden.View());
  DecoderWorkspace workspace;
  PolicyObserver policy(config, sequence, &workspace.attention);
  RetrievalObserver looker(config, sequence, &workspace.attention);
  LayerObserver* const observers[] = {&policy, &looker};
  const auto attention = MakePrefillAttention({}, kv, sequence.compression(), config.layers);
  PrefillPass pass({.decoder = decoder,
                    .sequence = sequence,
                    .attention = *attention,
                    .observers = observers,
                    .workspace = workspace},
                   hidden.View(), 32);
  while (pass.Step()) {
  }
  EndPart(config, sequence, &workspace.attention);
  sequence.Finish(static_cast<int32_t>(tokens), hidden.View().RowSpan(pass.rows() - 1));
  return sequence;
}

void ExpectSame(const Sequence& a, const Sequence& b) {
  EXPECT_EQ(a.ids(), b.ids());
  EXPECT_EQ(a.next_position(), b.next_position());
  EXPECT_EQ(0, std::memcmp(a.last_hidden().data, b.last_hidden().data,
                           static_cast<size_t>(a.last_hidden().cols) * sizeof(float)));
  for (int64_t layer = 0; layer < a.cache().spec().layers(); ++layer) {
    const KvLayerSpec& spec = a.cache().spec()[layer];
    for (int64_t head = 0; head < spec.kv_heads; ++head) {
      const auto tokens = a.cache().EntryTokens(layer, head), others = b.cache().EntryTokens(layer, head);
      ASSERT_TRUE(std::equal(tokens.begin(), tokens.end(), others.begin(), others.end()));
      const KvHeadView one = a.cache().Head(layer, head), other = b.cache().Head(layer, head);
      for (int64_t i = 0; i < one.length; ++i) {
        ASSERT_EQ(0, std::memcmp(one.KeyRow(i), other.KeyRow(i), static_cast<size_t>(spec.row_bytes())));
        ASSERT_EQ(0, std::memcmp(one.ValueRow(i), other.ValueRow(i), static_cast<size_t>(spec.row_bytes())));
      }
    }
  }
}

TEST(DecodeStep, ARowDoesNotDependOnItsNeighbours) {
  const ReferenceModel files("qwen2_5_vl_flat");
  const std::vector<KvOptions> settings = Settings();
  constexpr int kSteps = 4;
  for (const Dtype dtype : {Dtype::kF32, Dtype::kBF16}) {
    testing::ForEachCpuLevel([&](CpuLevel) {
      const auto model = Model::Load(files.directory(), {.activations = dtype, .threads = 2});
      const Decoder& decoder = model->internals().decoder();
      std::vector<Sequence> read;
      for (size_t i = 0; i < settings.size(); ++i) {
        read.push_back(Read(decoder, settings[i], 40 + 23 * static_cast<int64_t>(i), static_cast<uint32_t>(i)));
      }
      DecoderWorkspace workspace;
      for (const size_t count : {1, 2, 3, 5, 8}) {  // every number of chains that the products have
        std::vector<Sequence> together, alone;
        for (size_t i = 0; i < count; ++i) {
          const Sequence& from = read[(i + 3 * count) % read.size()];
          together.push_back(from.Fork());
          alone.push_back(from.Fork());
        }
        for (int32_t step = 0; step < kSteps; ++step) {
          std::vector<DecodeRow> rows;
          for (size_t i = 0; i < count; ++i) {
            const DecodeRow row{&together[i], 5 + step * 11 + static_cast<int32_t>(i)};
            rows.push_back(row);
            const DecodeRow single{&alone[i], row.id};
            DecodeStep(decoder, {&single, 1}, workspace);
          }
          DecodeStep(decoder, rows, workspace);
        }
        // What the next tokens are drawn from, too.
        const DecoderConfig& config = decoder.config();
        Matrix<float> hidden(static_cast<int64_t>(count), config.hidden), one(1, config.vocabulary);
        Matrix<float> logits(hidden.rows(), config.vocabulary);
        for (size_t i = 0; i < count; ++i) {
          std::copy_n(together[i].last_hidden().data, config.hidden, hidden.Row(static_cast<int64_t>(i)));
        }
        decoder.Logits(hidden.View(), logits.View(), RowSums::kAsAlone);
        for (size_t i = 0; i < count; ++i) {
          decoder.Logits(alone[i].last_hidden(), one.View(), RowSums::kAsAlone);
          EXPECT_EQ(0, std::memcmp(one.data(), logits.Row(static_cast<int64_t>(i)),
                                   static_cast<size_t>(config.vocabulary) * sizeof(float)));
        }
        for (size_t i = 0; i < count; ++i) {
          SCOPED_TRACE(StrCat(DtypeName(dtype), ", row ", i, " of ", count));
          ExpectSame(together[i], alone[i]);
        }
      }
    });
  }
}

// Any number of answers at once, each as if it were alone: texts, ids and log-probabilities, bit by bit.
TEST(GenerateTogether, AnswersAreThoseOfEachAlone) {
  const ReferenceModel files("qwen2_5_vl_flat");
  const auto model = Model::Load(files.directory(), {.activations = Dtype::kBF16, .threads = 2});
  std::vector<KvOptions> settings = Settings();
  settings.resize(11);  // more than go side by side; the last ones are full caches
  std::atomic<bool> cancel = false;
  const auto conversations = [&] {
    std::vector<std::unique_ptr<Conversation>> made;
    for (size_t i = 0; i < settings.size(); ++i) {
      SessionOptions options;
      options.kv = settings[i];
      options.threads = 2;
      options.cancel = &cancel;
      made.push_back(std::make_unique<Conversation>(model, options));
      std::vector<int32_t> ids;
      for (int32_t j = 0; j < 40 + 9 * static_cast<int32_t>(i); ++j)
        ids.push_back(3 + (j * 7 + static_cast<int32_t>(i)) % 200);
      made.back()->ReadPrompt(ids, {});
    }
    return made;
  };
  const GenerateOptions generate{.max_new_tokens = 12, .temperature = 0.8F, .repetition_penalty = 1.1F, .seed = 3};
  auto alone = conversations(), together = conversations();
  size_t next = 0, ended = 0;
  Conversation::GenerateTogether(
      generate, [&] { return next < together.size() ? together[next++].get() : nullptr; },
      [&](Conversation& conversation, Answer answer) {
        const auto at = static_cast<size_t>(std::find_if(together.begin(), together.end(),
                                                         [&](const auto& one) { return one.get() == &conversation; }) -
                                            together.begin());
        SCOPED_TRACE(at);
        const Answer right = alone[at]->Generate(generate, nullptr);
        EXPECT_EQ(answer.ids, right.ids);
        EXPECT_EQ(answer.text, right.text);
        EXPECT_EQ(answer.logprobs, right.logprobs);
        EXPECT_EQ(answer.finish, right.finish);
        EXPECT_EQ(conversation.times().decoded_tokens, alone[at]->times().decoded_tokens);
        ++ended;
      });
  EXPECT_EQ(ended, settings.size());

  auto stopped = conversations();
  next = ended = 0;
  cancel = true;
  Conversation::GenerateTogether(
      generate, [&] { return next < stopped.size() ? stopped[next++].get() : nullptr; },
      [&](Conversation&, const Answer& answer) {
        EXPECT_EQ(answer.finish, Answer::Finish::kCancelled);
        EXPECT_TRUE(answer.ids.empty());
        ++ended;
      });
  EXPECT_EQ(ended, settings.size());
  Conversation::GenerateTogether(
      generate, [] { return nullptr; }, [](Conversation&, const Answer&) { FAIL(); });
}

TEST(DecodeStepDeath, ASequenceIsThereOnce) {
  const ReferenceModel files("qwen2_5_vl_flat");
  const auto model = Model::Load(files.directory(), {.activations = Dtype::kF32, .threads = 1});
  const Decoder& decoder = model->internals().decoder();
  Sequence sequence = Read(decoder, {}, 10, 1);
  DecoderWorkspace workspace;
  const std::vector<DecodeRow> twice = {{&sequence, 1}, {&sequence, 2}};
  EXPECT_DEATH(DecodeStep(decoder, twice, workspace), "twice in one step");
}

TEST(Sequence, AForkGoesItsOwnWay) {
  const ReferenceModel files("qwen2_5_vl_flat");
  const auto model = Model::Load(files.directory(), {.activations = Dtype::kF32, .threads = 1});
  const Decoder& decoder = model->internals().decoder();
  DecoderWorkspace workspace;
  const auto step = [&](Sequence& sequence, int32_t id) {
    const DecodeRow row{&sequence, id};
    DecodeStep(decoder, {&row, 1}, workspace);
  };
  for (const KvOptions& kv : Settings()) {
    Sequence one = Read(decoder, kv, 70, 3);
    Sequence other = Read(decoder, kv, 70, 3);
    Sequence fork = one.Fork();
    const Sequence::Point here = one.Here();
    for (int32_t id = 1; id < 9; ++id) step(fork, id);
    for (int32_t id = 20; id < 26; ++id) step(one, id);
    for (int32_t id = 20; id < 26; ++id) step(other, id);
    ExpectSame(one, other);  // the fork has changed nothing
    Sequence again = Read(decoder, kv, 70, 3);
    for (int32_t id = 1; id < 9; ++id) step(again, id);
    ExpectSame(fork, again);
    if (!one.CanReturn(here)) continue;
    one.Return(here);
    for (int32_t id = 1; id < 9; ++id) step(one, id);
    ExpectSame(one, again);
  }
}

}  // namespace
}  // namespace purekv
