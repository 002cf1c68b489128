#include "engine/weight_report.h"

#include <algorithm>
#include <map>
#include <set>

#include "base/error.h"
#include "base/quant_matrix.h"
#include "kernels/code_panels.h"
#include "kernels/packed_weights.h"

namespace purekv {
namespace {

bool MakesCodes(const WeightOptions& options) {
  return options.request == WeightRequest::kInt8 || options.request == WeightRequest::kInt4;
}

// "awq, 4 bits"; "gguf, Q4_K, Q6_K"; "": plain numbers.
std::string QuantisedAs(const ModelPlan& plan, const TensorSource& tensors) {
  std::set<std::string> kinds;
  std::string method;
  for (const TensorSpec& spec : plan.tensors) {
    const auto how = tensors.Quantised(spec.name);
    if (!how) continue;
    method = tensors.method();
    kinds.insert(method == how->format ? StrCat(how->bits, " bits") : how->format);
  }
  if (kinds.empty()) return "";
  std::string text = method;
  for (const std::string& kind : kinds) text += ", " + kind;
  return text;
}

// Whether any weights are codes in memory.
bool KeepsCodes(const WeightOptions& options, const ModelPlan& plan, const TensorSource& tensors) {
  if (options.request != WeightRequest::kStored) return MakesCodes(options);
  return std::ranges::any_of(plan.tensors, [&](const TensorSpec& spec) {
    const auto how = tensors.Quantised(spec.name);
    return how && how->why_expanded.empty();
  });
}

void ResolveRows(const ModelPlan& plan, const TensorSource& tensors, NumberFormats* formats) {
  const bool made_for = tensors.Int8Activations();
  const bool codes = KeepsCodes(formats->quantisation, plan, tensors);
  RowRequest& rows = formats->quantisation.rows;
  if (rows == RowRequest::kInt8 && !codes) {
    FailUsage(Field{"load.weights.option.activations"}, " int8: the weights of ", plan.files.where(),
              " are plain numbers; ", Field{"load.weights"}, " int8 or int4 make them codes");
  }
  if (rows == RowRequest::kStored) {
    const bool int8 = made_for && codes && formats->activations == Dtype::kBF16;
    rows = int8 ? RowRequest::kInt8 : RowRequest::kPlain;
  }
  formats->int8_rows = rows == RowRequest::kInt8;
  formats->int8_down_rows = formats->int8_rows && made_for;
}

}  // namespace

void ResolveWeightOptions(const ModelPlan& plan, const TensorSource& tensors, NumberFormats* formats) {
  const WeightOptions& options = formats->quantisation;
  if (options.group != 32 && options.group != 64 && options.group != 128) {
    FailUsage(Field{"load.weights.option.group"}, " ", options.group, ": 32, 64 or 128");
  }
  if (options.int8_vision && plan.vision_tensors.empty()) {
    FailUsage(Field{"load.weights.option.vision"}, " int8: ", plan.files.where(), " has no vision tower");
  }
  const std::string quantised = MakesCodes(options) ? QuantisedAs(plan, tensors) : "";
  if (!quantised.empty()) {
    FailUsage(Field{"load.weights"}, " ", RequestName(options.request), ": ", plan.files.where(),
              " is already quantised (", quantised, "); leave the flag out or say bf16");
  }
  ResolveRows(plan, tensors, formats);
}

WeightInfo DescribeWeights(const NumberFormats& formats, const ModelPlan& plan, const TensorSource& tensors) {
  const WeightOptions& options = formats.quantisation;
  WeightInfo info;
  info.options = options;
  std::map<std::string, int64_t> bytes_of;
  std::map<std::string, std::pair<int64_t, std::string>> expanded;  // why -> how many, the first
  for (const TensorSpec& spec : plan.tensors) {
    const auto found = tensors.Find(spec.name);
    if (!found) continue;  // said when the model is packed
    const auto how = tensors.Quantised(spec.name);
    const int64_t size = ElementCount(found->shape) * static_cast<int64_t>(DtypeSize(found->dtype));
    if (!how) {
      bytes_of[DtypeName(found->dtype)] += size;
      continue;
    }
    info.source = tensors.method();
    if (how->why_expanded.empty() || options.request == WeightRequest::kPlain) continue;
    auto& [count, first] = expanded[how->why_expanded];
    if (count++ == 0) first = spec.name;
  }
  if (info.source.empty() && !bytes_of.empty()) {
    info.source = std::ranges::max_element(bytes_of, {}, [](const auto& one) { return one.second; })->first;
  }
  if (tensors.Int8Activations()) {
    info.notes.push_back(formats.int8_rows
                             ? "made for activations of 8 bits: more than 8 rows are multiplied in 8 bits"
                             : "made for activations of 8 bits; they are kept in more, which is at least as exact");
  }
  for (const auto& [why, what] : expanded) {
    info.notes.push_back(StrCat(what.first, what.first == 1 ? " tensor is" : " tensors are", " expanded (", what.second,
                                what.first == 1 ? "" : ", ...", "): ", why));
  }
  return info;
}

void EstimateStorage(const NumberFormats& formats, const ModelPlan& plan, const TensorSource& tensors,
                     WeightInfo* info) {
  int64_t bytes = 0, weights = 0;  // of the decoder's products and the head
  for (const TensorSpec& spec : plan.tensors) {
    const bool embedding = spec.name == "model.embed_tokens.weight";
    // Rows of the embedding table stay in the file.
    if (spec.shape.size() < 2 || (embedding && !plan.decoder.tied_embeddings)) continue;
    const int64_t elements = ElementCount(spec.shape), in = elements / spec.shape.front();
    const auto how = tensors.Quantised(spec.name);
    const auto found = tensors.Find(spec.name);
    const Dtype plain = PlainDtype(found && !how ? found->dtype : Dtype::kF32, formats.weights);
    std::string form = DtypeName(plain);
    int64_t size = elements * static_cast<int64_t>(DtypeSize(plain));
    if (how && how->why_expanded.empty() && formats.quantisation.request == WeightRequest::kStored) {
      const TensorData tensor = tensors.Read(spec.name);
      const QuantMatrix* const codes = tensor.reader == nullptr ? nullptr : tensor.reader->quant();
      if (codes != nullptr) {
        form = StorageName(codes->layout().storage);
        size = CodePanels::BytesOf(spec.shape.front(), in, codes->layout());
      }
    }
    info->storage[form] += size;
    if (spec.name.starts_with("visual.")) continue;
    bytes += size;
    weights += elements;
  }
  if (weights > 0) info->bits_per_weight = 8.0 * static_cast<double>(bytes) / static_cast<double>(weights);
}

void AddStorage(const LanguageModel& model, WeightInfo* info) {
  const StorageTotals all = model.storage();
  info->storage = all.bytes;
  for (const auto& [why, layers] : all.refused) {
    info->notes.push_back(StrCat(layers, layers == 1 ? " layer stays" : " layers stay", " plain: ", why));
  }
  const StorageTotals& decoder = model.decoder().storage();
  info->bits_per_weight = 8.0 * static_cast<double>(decoder.weight_bytes()) / static_cast<double>(decoder.weights);
}

std::string WeightIdentity(const WeightInfo& info) {
  const WeightOptions& options = info.options;
  const bool codes = info.source != "f32" && info.source != "bf16" && info.source != "f16";
  std::string text;
  if (MakesCodes(options) || (codes && options.request == WeightRequest::kPlain)) text = RequestName(options.request);
  if (options.request == WeightRequest::kInt4)
    text += StrCat(" group=", options.group, options.int8_down ? " down" : "");
  if (MakesCodes(options) && options.int8_head) text += " head";
  if (options.int8_vision) text += " vision";
  if (options.rows == RowRequest::kInt8) text += " int8 rows";
  return text;
}

}  // namespace purekv
