// A predictor's file: what PyTorch makes of its numbers, and files that are none.
#include "engine/page_predictor.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdio>
#include <cstring>
#include <functional>
#include <limits>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "base/file.h"
#include "policy/predicted_pages.h"
#include "purekv/error.h"
#include "support/arrays.h"
#include "support/expect_error.h"
#include "support/page_predictor.h"
#include "support/reference_model.h"

namespace purekv {
namespace {

const std::string kFingerprint = "0123456789abcdef0123456789abcdef";

ModelInfo Info(const std::string& fingerprint = kFingerprint) {
  ModelInfo info;
  info.directory = "some/model";
  info.fingerprint = fingerprint;
  return info;
}

TEST(PagePredictor, SaysWhatPyTorchSays) {
  const std::string folder = std::string(PUREKV_TEST_DATA) + "/reference/page_predictor/";
  const auto predictor = ReadPagePredictor(folder + "predictor.safetensors", Info());
  const Array<float> rows = ReadFloatArray(folder + "rows.npy"), scores = ReadFloatArray(folder + "scores.npy");
  ASSERT_EQ(rows.shape, (std::vector<int64_t>{64, 150}));
  PageRows history(64 * sizeof(float));
  history.Resize(rows.cols());
  for (int64_t row = 0; row < 64; ++row) {
    for (int64_t page = 0; page < rows.cols(); ++page) {
      static_cast<float*>(history.Row(page))[row] = rows.Row(row)[size_t(page)];
    }
  }
  PredictedPages pages;
  for (const auto& part : pages.Plan(64, 0, rows.cols())) pages.Run(*predictor, history, part);
  const std::vector<double> got = pages.Scores(*predictor);
  ASSERT_EQ(got.size(), scores.data.size());
  for (size_t page = 0; page < got.size(); ++page) EXPECT_NEAR(got[page], double(scores.data[page]), 1e-6) << page;
}

class PagePredictorFile : public ::testing::Test {
 protected:
  const TemporaryDirectory folder_{"page_predictor"};  // tests run beside one another
  const std::string path_ = folder_.File("predictor.safetensors");
  std::vector<FileTensor> tensors_ = TensorsOf(RandomPredictor(2));
  std::string metadata_ = "{\"fingerprint\":\"" + kFingerprint + "\"}";

  void ExpectRefused(const std::string& words, const std::string& bytes) {
    WriteFile(path_, bytes);
    try {
      ReadPagePredictor(path_, Info());
      ADD_FAILURE() << "no error: " << words;
    } catch (const Error& error) {
      const std::string said = error.what();
      EXPECT_TRUE(said.starts_with(path_ + ": ")) << said;
      EXPECT_NE(said.find(words), std::string::npos) << said;
      EXPECT_EQ(said.find('\n'), std::string::npos) << said;
    }
  }
  void ExpectRefused(const std::string& words) { ExpectRefused(words, PredictorFile(tensors_, metadata_)); }
};

TEST_F(PagePredictorFile, IsReadAsItIs) {
  WriteFile(path_, PredictorFile(tensors_, metadata_));
  const auto predictor = ReadPagePredictor(path_, Info());
  const PageConvolutionWeights want = RandomPredictor(2);
  EXPECT_EQ(predictor->weights().conv1, want.conv1);
  EXPECT_EQ(predictor->weights().bias1, want.bias1);
  EXPECT_EQ(predictor->weights().conv2, want.conv2);
  EXPECT_EQ(predictor->weights().bias2, want.bias2);
  EXPECT_EQ(predictor->weights().conv3, want.conv3);
  EXPECT_EQ(predictor->bias(), want.bias3);
  AttendOptions options{.view = "attention-predictor", .budget = 0.5, .tokens = {}, .options = {}};
  EXPECT_EQ(PredictorOf(options, Info()), nullptr);
  options.options["attend_model"] = "ema";
  EXPECT_EQ(PredictorOf(options, Info()), nullptr);
  options.options["attend_model"] = path_;
  EXPECT_NE(PredictorOf(options, Info()), nullptr);
  options.options["attend_history"] = "63";
  ExpectUsageError("kv.option.attend_history", "64", [&] { PredictorOf(options, Info()); });
  EXPECT_EQ(PredictorOf({}, Info()), nullptr);
}

TEST_F(PagePredictorFile, OfAnotherModel) {
  metadata_ = "{\"fingerprint\":\"ffffffffffffffffffffffffffffffff\"}";
  ExpectRefused("trained with another model than some/model");
  metadata_ = "{\"format\":\"pt\"}";
  ExpectRefused("no \"fingerprint\"");
  metadata_ = "";
  ExpectRefused("no \"fingerprint\"");
  metadata_ = "{\"fingerprint\":3}";
  ExpectRefused("is not a string");
}

TEST_F(PagePredictorFile, OfOtherTensors) {
  const auto whole = tensors_;
  for (size_t i = 0; i < whole.size(); ++i) {
    tensors_ = whole;
    tensors_.erase(tensors_.begin() + static_cast<std::ptrdiff_t>(i));
    ExpectRefused("tensor " + whole[i].name + " is missing");
    tensors_ = whole;
    tensors_[i].dtype = "I32";
    ExpectRefused("tensor " + whole[i].name + " is I32; expected F32");
    for (const float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(),
                            -std::numeric_limits<float>::infinity()}) {
      tensors_ = whole;
      tensors_[i].numbers.back() = bad;
      ExpectRefused("tensor " + whole[i].name + " has a number that is not finite");
    }
  }
  tensors_ = whole;
  tensors_.push_back({"conv4.weight", "[2]", "F32", {1, 2}});
  ExpectRefused("tensor conv4.weight is none of a predictor's");
  tensors_ = whole;
  tensors_[0].shape = "[16,9]";
  ExpectRefused("tensor conv1.weight has shape");
  tensors_ = whole;
  tensors_[2].shape = "[16,32,3,3]";
  ExpectRefused("tensor conv2.weight has shape");
  tensors_ = whole;
  tensors_[4].shape = "[32,1,1]";
  ExpectRefused("tensor conv3.weight has shape");
  tensors_ = whole;
  tensors_[1] = {"conv1.bias", "[17]", "F32", std::vector<float>(17, 0.0F)};
  ExpectRefused("tensor conv1.bias has shape");
  tensors_.clear();
  ExpectRefused("tensor conv1.weight is missing");
}

TEST_F(PagePredictorFile, ThatIsNone) {
  const std::string good = PredictorFile(tensors_, metadata_);
  for (size_t size = 0; size < good.size(); size += size < 700 ? 1 : 997) {
    WriteFile(path_, good.substr(0, size));
    EXPECT_THROW(ReadPagePredictor(path_, Info()), Error) << size;
  }
  ExpectRefused("nothing may follow", good + "x");
  ExpectRefused("at most 100000 are expected", good + std::string(100'000, ' '));
  std::string vast = good;
  std::memset(vast.data(), 0xff, 8);
  ExpectRefused("header of", vast);
  std::remove(path_.c_str());
  EXPECT_THROW(ReadPagePredictor(path_, Info()), Error);
  EXPECT_THROW(ReadPagePredictor(::testing::TempDir(), Info()), Error);
}

}  // namespace
}  // namespace purekv
