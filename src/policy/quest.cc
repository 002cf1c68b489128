// Quest (arXiv 2406.10774): per page the smallest and the largest of every channel of its keys bound what any of them
// can reach with a query; a step reads the pages of the highest bounds.
#include <algorithm>

#include "base/error.h"
#include "base/threads.h"
#include "kernels/elementwise.h"
#include "kernels/few_rows.h"
#include "policy/retrieval_pages.h"

namespace purekv {
namespace {

constexpr int64_t kLeastPages = 3;

class Quest : public RetrievalView {
 public:
  Quest(const OptionValues& values, const RetrievalContext& context)
      : page_(values.Integer("attend_page")), mean_(values.Is("attend_group", "mean")) {
    for (int64_t layer = 0; layer < context.spec.layers(); ++layer) {
      const KvLayerSpec& spec = context.spec[layer];
      auto& heads = pages_.emplace_back();
      if (layer < context.first || !spec.full()) continue;
      for (int64_t head = 0; head < spec.kv_heads; ++head) heads.push_back({{}, PageRows(2 * spec.row_bytes())});
    }
  }
  std::unique_ptr<RetrievalView> Clone() const override { return std::make_unique<Quest>(*this); }

  void EndPart(const RetrievalLayer& layer) override { Index(layer); }

  std::vector<EntryRanges> Choose(const RetrievalLayer& layer, MatrixView<const float> q) override {
    PUREKV_CHECK(q.rows == 1, q.rows, " rows");
    Index(layer);
    std::vector<EntryRanges> chosen(static_cast<size_t>(layer.kv_heads()));
    ParallelFor(layer.kv_heads(), [&](int64_t head) {
      const int64_t length = layer.length(head), most = layer.most[static_cast<size_t>(head)];
      const float* const queries = q.Row(0) + head * layer.group() * layer.head_dim;
      chosen[static_cast<size_t>(head)] = most >= length ? EntryRanges{{0, length}} : ChooseIn(layer, head, queries);
    });
    return chosen;
  }

  int64_t index_bytes() const override {
    int64_t bytes = 0;
    for (const auto& heads : pages_) {
      for (const Head& head : heads) bytes += head.bounds.allocated();
    }
    return bytes;
  }
  int64_t IndexBytesRead(int64_t layer) const override {
    int64_t bytes = 0;
    for (const Head& head : pages_[static_cast<size_t>(layer)]) bytes += head.bounds.bytes();
    return bytes;
  }

 private:
  struct Head {
    ClosedPages closed;
    PageRows bounds;  // [pages][2 * head_dim] of the cache's format: the largest of every channel, then the smallest
  };

  void Index(const RetrievalLayer& layer) {
    auto& heads = pages_[static_cast<size_t>(layer.layer)];
    ParallelFor(layer.kv_heads(), [&](int64_t head) {
      Head& one = heads[static_cast<size_t>(head)];
      const KvHeadView kv = layer.cache.Head(layer.layer, head);
      const EntryRange anew = one.closed.Update(kv.length, layer.cache.EncodedLength(layer.layer, head), page_);
      one.bounds.Resize(anew.end);
      const int64_t dim = layer.head_dim;
      std::vector<float> keys(static_cast<size_t>(page_ * dim)), bounds(static_cast<size_t>(2 * dim));
      for (int64_t page = anew.begin; page < anew.end; ++page) {
        ReadKeys(kv, page * page_, page_, dim, keys.data());
        float* const high = bounds.data();
        float* const low = high + dim;
        std::copy_n(keys.data(), dim, high);
        std::copy_n(keys.data(), dim, low);
        for (int64_t i = 1; i < page_; ++i) {
          const float* const key = keys.data() + i * dim;
          for (int64_t d = 0; d < dim; ++d) {
            high[d] = std::max(high[d], key[d]);
            low[d] = std::min(low[d], key[d]);
          }
        }
        // They are elements of keys: no format rounds them.
        Convert({bounds.data(), 1, 2 * dim, 2 * dim}, {one.bounds.Row(page), kv.dtype(), 1, 2 * dim, 2 * dim});
      }
    });
  }

  EntryRanges ChooseIn(const RetrievalLayer& layer, int64_t head, const float* queries) const {
    const Head& one = pages_[static_cast<size_t>(layer.layer)][static_cast<size_t>(head)];
    const int64_t length = layer.length(head), closed = one.closed.count();
    // The newest page is read whatever its bound: the open one, where there is one.
    const bool open = length % page_ != 0;
    const int64_t candidates = open ? closed : closed - 1;
    const int64_t wanted = std::max(kLeastPages, layer.most[static_cast<size_t>(head)] / page_) - 1;
    if (wanted >= candidates) return {{0, length}};
    EntryRanges ranges;
    for (const int64_t page :
         Highest(Bounds(layer, one, queries, candidates, layer.cache.Head(layer.layer, head)), wanted)) {
      AddRange(&ranges, {page * page_, (page + 1) * page_});
    }
    AddRange(&ranges, {candidates * page_, length});
    return ranges;
  }

  // sum over channels of max(q * smallest, q * largest), which is q's positive part times the largest and its negative
  // part times the smallest: a product of vectors of twice the length.
  std::vector<double> Bounds(const RetrievalLayer& layer, const Head& one, const float* queries, int64_t pages,
                             const KvHeadView& kv) const {
    const int64_t group = layer.group(), dim = layer.head_dim;
    Matrix<float> split(group, 2 * dim), bounds(group, pages);
    for (int64_t h = 0; h < group; ++h) {
      for (int64_t d = 0; d < dim; ++d) {
        const float x = queries[h * dim + d];
        split.Row(h)[d] = std::max(x, 0.0F);
        split.Row(h)[dim + d] = std::min(x, 0.0F);
      }
    }
    for (int64_t h = 0; h < group; h += kMatrixVectorRows) {
      const int64_t some = std::min(kMatrixVectorRows, group - h);
      Epilogue out;
      out.out = {bounds.Row(h), Dtype::kF32, some, pages, pages};
      MultiplyFewRows({split.Row(h), Dtype::kF32, some, 2 * dim, 2 * dim}, one.bounds.data(), kv.dtype(), pages, out);
    }
    std::vector<double> scores(static_cast<size_t>(pages));
    for (int64_t page = 0; page < pages; ++page) {
      double highest = static_cast<double>(bounds.Row(0)[page]), sum = highest;
      for (int64_t h = 1; h < group; ++h) {
        const auto bound = static_cast<double>(bounds.Row(h)[page]);
        highest = std::max(highest, bound);
        sum += bound;
      }
      scores[static_cast<size_t>(page)] = mean_ ? sum / static_cast<double>(group) : highest;
    }
    return scores;
  }

  int64_t page_;
  bool mean_;
  std::vector<std::vector<Head>> pages_;  // [layers][kv_heads]; none where a layer attends to everything
};

}  // namespace

RetrievalInfo QuestView() {
  RetrievalInfo info;
  info.name = "quest";
  info.summary = "pages by the highest product that any of their keys can reach; each KV head its own";
  info.paper = "Quest, arXiv 2406.10774";
  info.cost = {"smallest and largest of every channel of a page of keys: n d", "2 n d / page per query head",
               "2 d elements per page and KV head: 2/page of the keys"};
  info.options = {WordOption("attend_page", {"16", "4", "8", "32", "64", "128", "256"}),
                  WordOption("attend_group", {"max", "mean"}), IntegerOption("attend_dense_layers", 2, 0, kMostTokens)};
  info.make = [](const OptionValues& values, const RetrievalContext& context) -> std::unique_ptr<RetrievalView> {
    return std::make_unique<Quest>(values, context);
  };
  info.index_bytes = [](const OptionValues& values, const KvLayerSpec& spec, int64_t entries) {
    return entries / values.Integer("attend_page") * 2 * spec.row_bytes();
  };
  return info;
}

}  // namespace purekv
