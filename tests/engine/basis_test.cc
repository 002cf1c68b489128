// Sessions whose entries are held in bases: what is left of them, all of it at full rank, files, calibration, refusals.
#include <gtest/gtest.h>

#include <cmath>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "engine/basis_file.h"
#include "engine/conversation.h"
#include "models/language_model.h"
#include "policy/registry.h"
#include "policy/rotation.h"
#include "policy/scores.h"
#include "purekv/calibrate.h"
#include "saved_cache_testing.h"
#include "support/expect_error.h"
#include "support/random_basis.h"

namespace purekv {
namespace {

class BasisTest : public SavedCacheTest {
 protected:
  static const std::shared_ptr<const Model>& F32() { return models_[Dtype::kF32]; }
  static const DecoderConfig& Config() { return F32()->internals().decoder().config(); }
  // Random bases of these ranks, and the file that holds them.
  std::string FileOf(int64_t key_rank, int64_t value_rank, Dtype dtype = Dtype::kF32) {
    bases_.clear();
    uint32_t seed = 1;
    for (int64_t layer = 0; layer < Config().layers; ++layer) {
      auto one = std::make_shared<KvLayerBasis>();
      for (int64_t head = 0; head < Config().kv_heads; ++head) {
        one->keys.push_back(RandomBasis(Config().head_dim, key_rank, seed++, Config().rope(layer)));
        one->values.push_back(RandomBasis(Config().head_dim, value_rank, seed++));
      }
      bases_.push_back(std::move(one));
    }
    const std::string path = directory_.File("bases.safetensors");
    WriteBases(path, bases_, {{"fingerprint", models_[dtype]->info().fingerprint}});
    return path;
  }
  static SessionOptions With(const std::string& file, const std::string& policy = "full") {
    SessionOptions options = Plain();
    options.kv.policy = policy;
    if (policy != "full") options.kv.budget = 0.4;
    options.kv.basis = file;
    return options;
  }
  KvBases bases_;
};

// The file says what was written.
TEST_F(BasisTest, AFileIsReadAsItWasWritten) {
  const KvBases read = ReadBases(FileOf(24, 17), *F32());
  ASSERT_EQ(read.size(), bases_.size());
  for (size_t layer = 0; layer < read.size(); ++layer) {
    for (size_t head = 0; head < read[layer]->keys.size(); ++head) {
      EXPECT_EQ(read[layer]->keys[head]->vectors, bases_[layer]->keys[head]->vectors);
      EXPECT_EQ(read[layer]->values[head]->vectors, bases_[layer]->values[head]->vectors);
      EXPECT_EQ(read[layer]->keys[head]->rank(), 24);
      EXPECT_EQ(read[layer]->values[head]->rank(), 17);
      EXPECT_EQ(read[layer]->values[head]->rope.pairs(), 0);
    }
  }
}

// At full rank nothing is lost but rounding, under every policy; scoring is generating.
TEST_F(BasisTest, AtFullRankAnswersStay) {
  const std::string file = FileOf(Config().head_dim, Config().head_dim);
  for (const PolicyInfo& policy : Policies()) {
    SessionOptions options = With(file, policy.name);
    if (policy.merges) continue;  // refused
    if (!policy.merge.empty()) options.kv.merge = "none";
    SessionOptions plain = options;
    plain.kv.basis.clear();
    Session session(F32(), options), without(F32(), plain);
    const Turn turn = MediaTurn();
    const Said said = Ask(session, kQuestion, &turn), right = Ask(without, kQuestion, &turn);
    EXPECT_EQ(said.ids, right.ids) << policy.name;
    for (size_t i = 0; i < said.logits.size(); ++i) {
      ASSERT_NEAR(said.logits[i], right.logits[i], 2e-3) << policy.name;
    }
  }
}

// What the cache holds is R(p) U U^T R(-p) k and V V^T v of what a full cache holds, and takes their bytes.
TEST_F(BasisTest, EntriesAreProjectedAndTakeFewerBytes) {
  const int64_t key_rank = Config().head_dim / 2, value_rank = Config().head_dim / 4;
  const std::string file = FileOf(key_rank, value_rank);
  Conversation plain(F32(), Plain()), held(F32(), With(file));
  const Turn turn = MediaTurn();
  plain.ReadTurn(turn);
  held.ReadTurn(turn);
  const int64_t dim = Config().head_dim;
  for (int64_t layer = 0; layer < Config().layers; ++layer) {
    for (int64_t head = 0; head < Config().kv_heads; ++head) {
      const KvHeadView right = plain.cache().Head(layer, head), got = held.cache().Head(layer, head);
      ASSERT_EQ(got.length, right.length);
      ASSERT_EQ(held.cache().EncodedLength(layer, head), got.length);
      ASSERT_EQ(got.segments.size(), 1u);
      const auto at = static_cast<size_t>(layer);
      for (int64_t entry = 0; entry < right.length; entry += 5) {
        const KeyTurn turned(Config().rope(layer), plain.positions()[static_cast<size_t>(entry)]);
        for (const bool key : {true, false}) {
          std::vector<double> x(static_cast<size_t>(dim)), y(x.size()), projected(x.size(), 0.0);
          key ? KeyRow(right, entry, dim, x.data()) : ValueRow(right, entry, dim, x.data());
          const KvSegment& held_in = got.segments.front();  // as many as there are, in one piece
          std::vector<float> made(static_cast<size_t>(dim));
          DecodeEntries(key ? held_in.encoding->keys : held_in.encoding->values, key ? held_in.keys : held_in.values,
                        entry, 1, made.data());
          y.assign(made.begin(), made.end());
          if (key) turned.Back(x.data(), dim);
          const KvBasis& basis = *(key ? bases_[at]->keys : bases_[at]->values)[static_cast<size_t>(head)];
          for (int64_t r = 0; r < basis.rank(); ++r) {
            double weight = 0;
            const float* const u = basis.vectors.data() + r * dim;
            for (int64_t d = 0; d < dim; ++d) weight += double(u[d]) * x[static_cast<size_t>(d)];
            for (int64_t d = 0; d < dim; ++d) projected[static_cast<size_t>(d)] += weight * double(u[d]);
          }
          if (key) turned.To(projected.data(), dim);
          for (size_t d = 0; d < y.size(); ++d) {
            // The part itself attended to whole entries: what lies below changes nothing here.
            ASSERT_NEAR(y[d], projected[d], 1e-4 * (1 + std::abs(projected[d])));
          }
        }
      }
    }
  }
  const auto entries = static_cast<double>(held.cache().tokens() * Config().layers * Config().kv_heads);
  const auto formula = entries * static_cast<double>((key_rank + value_rank) * 4);
  EXPECT_GE(static_cast<double>(held.kv().bytes_kept), formula);
  EXPECT_LE(
      static_cast<double>(held.kv().bytes_kept),
      1.1 * formula + 16 * 4 * static_cast<double>((key_rank + value_rank) * Config().layers * Config().kv_heads));
}

TEST_F(BasisTest, ScoringIsGenerating) {
  const std::string file = FileOf(Config().head_dim / 2, Config().head_dim / 2);
  for (const char* const policy : {"full", "h2o", "snapkv"}) {
    Session session(F32(), With(file, policy));
    session.Read(MediaTurn());
    const Answer answer = session.Generate({.max_new_tokens = 9}, nullptr);
    Session scored(F32(), With(file, policy));
    scored.Read(MediaTurn());
    const ScoreResult score = scored.Score(answer.ids, false);
    ASSERT_EQ(score.logprobs.size(), answer.logprobs.size());
    for (size_t i = 0; i < answer.logprobs.size(); ++i) EXPECT_EQ(score.logprobs[i], answer.logprobs[i]) << policy;
  }
}

// Tokens of a few dimensions are found to be that, and nothing of the answer is lost.
TEST_F(BasisTest, CalibrationKeepsToItsError) {
  CalibrationSample sample;
  sample.name = "walk";
  sample.turn = MediaTurn();
  sample.turn.prompt = kQuestion;
  const std::string path = directory_.File("found.safetensors");
  BasisRequest request;
  request.error = 0.2;
  const BasisCalibration found = CalibrateBasis(F32(), {sample}, request, Plain(), path);
  ASSERT_EQ(static_cast<int64_t>(found.layers.size()), Config().layers);
  for (const LayerBasis& layer : found.layers) {
    EXPECT_LE(layer.error, request.error);
    EXPECT_TRUE(layer.key_rank % 8 == 0 || layer.key_rank == Config().head_dim);
    EXPECT_GE(static_cast<double>(layer.key_rank), 0.45 * static_cast<double>(Config().head_dim));
  }
  const KvBases read = ReadBases(path, *F32());
  EXPECT_EQ(read[0]->keys[0]->rank(), found.layers[0].key_rank);
  request.error = 0.9;
  const BasisCalibration rough = CalibrateBasis(F32(), {sample}, request, Plain(), path);
  EXPECT_LE(rough.of_bytes, found.of_bytes);
  EXPECT_LT(rough.of_bytes, 1);
  Session session(F32(), With(path));
  session.Read(MediaTurn());
  EXPECT_EQ(session.Generate({.max_new_tokens = 5}, nullptr).ids.size(), 5u);
  request.keys_by_layer = true;
  CalibrateBasis(F32(), {sample}, request, Plain(), path);
  const KvBases shared = ReadBases(path, *F32());
  for (const auto& head : shared[1]->keys) EXPECT_EQ(head->vectors, shared[1]->keys[0]->vectors);
}

// A .pkv file holds the weights; whoever opens it brings the bases.
TEST_F(BasisTest, ASavedCacheGoesOn) {
  const std::string file = FileOf(Config().head_dim / 2, Config().head_dim / 2);
  for (const char* const policy : {"full", "h2o", "snapkv"}) {
    SessionOptions options = With(file, policy);
    options.kv.when = KvOptions::When::kContext;
    Session session(F32(), options);
    session.ReadMedia(MediaTurn());
    const std::string path = directory_.File("weights.pkv");
    session.Save(path);
    SessionOptions reader = Plain();
    reader.kv.basis = file;
    Session opened = Session::Open(F32(), path, reader);
    EXPECT_EQ(Ask(opened, kQuestion), Ask(session, kQuestion)) << policy;
    ExpectUsageError("kv.basis", "is not given", [&] { Session::Open(F32(), path, Plain()); });
    const std::string other = directory_.File("other.safetensors");
    WriteFile(other, ReadFile(file, 1 << 24));
    reader.kv.basis = FileOf(Config().head_dim / 2, 8);
    ExpectUsageError("kv.basis", "in other bases", [&] { Session::Open(F32(), path, reader); });
    WriteFile(file, ReadFile(other, 1 << 24));
  }
  SessionOptions options = Plain();
  options.kv.when = KvOptions::When::kContext;
  Session session(F32(), options);
  session.ReadMedia(MediaTurn());
  const std::string path = directory_.File("plain.pkv");
  session.Save(path);
  SessionOptions reader = Plain();
  reader.kv.basis = file;
  ExpectUsageError("kv.basis", "as they are", [&] { Session::Open(F32(), path, reader); });
}

TEST_F(BasisTest, DamagedFilesAreRefused) {
  const std::string file = FileOf(8, 8);
  const std::string sound = ReadFile(file, 1 << 24);
  const auto expect = [&](const std::string& text, const std::string& part) {
    WriteFile(file, text);
    try {
      ReadBases(file, *F32());
      ADD_FAILURE() << "read: " << part;
    } catch (const Error& error) {
      EXPECT_NE(std::string(error.what()).find(part), std::string::npos) << error.what();
    }
  };
  const auto replaced = [&](const std::string& from, const std::string& to) {
    std::string text = sound;
    text.replace(text.find(from), from.size(), to);
    return text;
  };
  expect(replaced("\"k.0\"", "\"k.9\""), "k.0 is missing");
  expect(replaced("\"F32\"", "\"I32\""), "expected F32");
  expect(replaced("fingerprint", "fingerprinf"), "no \"fingerprint\"");
  const std::string print = F32()->info().fingerprint;
  expect(replaced(print, std::string(print.size(), '0')), "bases of another model");
  expect(sound.substr(0, sound.size() - 4), "");
  std::string numbers = sound;
  for (size_t i = 1; i <= 64; ++i) numbers[numbers.size() - i] = '\x7f';
  expect(numbers, "orthonormal");
}

TEST_F(BasisTest, WhatCannotBeJoinedIsRefused) {
  const std::string file = FileOf(8, 8);
  const auto expect = [&](const SessionOptions& options, const std::string& part) {
    ExpectUsageError("kv.basis", part, [&] { Session(F32(), options); });
  };
  SessionOptions options = With(file);
  options.kv.keys = "int8";
  expect(options, "kv.keys");
  options = With(file);
  options.kv.key_channels = 0.5;
  expect(options, "kv.key_channels");
  options = With(file);
  options.kv.attend.view = "quest";
  options.kv.attend.budget = 0.5;
  expect(options, "kv.attend");
  options = With(file);
  options.kv.store.kind = StoreOptions::Kind::kFile;
  expect(options, "kv.store");
  options = With(file, "snapkv");
  options.kv.merge = "averaged";
  expect(options, "kv.merge");
  expect(With(file, "kvmerger"), "kv.merge");
  options = With(file, "snapkv");
  options.kv.merge = "values";
  Session(F32(), options);
}

}  // namespace
}  // namespace purekv
