// What a policy may ask of one layer's attention, and where the answers add up. Nothing here is ever N x N.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/matrix.h"
#include "purekv/token_layout.h"

namespace purekv {

// What must be observed while a layer reads its rows; the engine asks its kernels for this and nothing else.
struct Observer {
  enum class Kind {
    kNone,         // of what the queries attend to, nothing
    kColumnSums,   // sums over queries of the attention probabilities on each key
    kRepeatMaxima  // nothing while the rows pass; behind the last layer the model repeats the part, and the largest
                   // probability that a repeating query gives each key counts
  };
  Kind kind = Kind::kNone;
  int64_t window = 0;     // column sums: over the last `window` queries; 0: over all
  bool by_query = false;  // two planes, the first of text queries and the second of visual ones; else one of all
  bool squares = false;   // two planes, the second of the squares of the probabilities; neither by_query nor n
  // column sums over all queries: one more plane, behind the others, of the last `tail` queries alone, with weight 1;
  // 0: none
  int64_t tail = 0;
  double n = 0;       // column sums: each query's row is weighted by sigmoid(LSE - ln n), the softmax with n added
                      // to its denominator; 0: weight 1
  int64_t chunk = 0;  // repeat maxima: tokens that are repeated at a time

  // Beside all that: mean and covariance of the queries before rotation, of every so many tokens (sequence indices that
  // it divides); 0: not wanted. Tokens before first_token are left out.
  int64_t queries_every = 0;
  int64_t first_token = 0;

  // At most so many last queries are looked at apart where a layer's own attention does not give their log-sum-exp.
  static constexpr int64_t kFew = 64;
  bool few() const { return kind == Kind::kColumnSums && window > 0 && window <= kFew; }

  int64_t planes() const { return (by_query || squares ? 2 : 1) + (tail > 0 ? 1 : 0); }
  // What the planes before that of the tail are made of; and that one.
  Observer WithoutTail() const {
    Observer observer = *this;
    observer.tail = 0;
    return observer;
  }
  Observer WithoutSums() const { return {.queries_every = queries_every, .first_token = first_token}; }
  Observer OfTail() const { return {.kind = Kind::kColumnSums, .window = tail}; }
  // Column sums over all queries: they only grow, from compression to compression.
  bool sums_all() const { return kind == Kind::kColumnSums && window == 0; }
  bool weighted() const { return by_query || n > 0; }
};

inline bool IsVisual(const TokenRecord& token) {
  return token.kind != TokenRecord::Kind::kText;
}

// Tokens in front of the first visual one; 0: there is none.
inline int64_t TokensBeforeMedia(std::span<const TokenRecord> layout) {
  for (size_t i = 0; i < layout.size(); ++i) {
    if (IsVisual(layout[i])) return static_cast<int64_t>(i);
  }
  return 0;
}

// The largest probability that an observed query of the group gives each entry. [kv_heads][entries]
using KeyMaxima = std::vector<std::vector<double>>;

// Row weights of a weighted observer: [planes][rows * heads], row-major. `rows`: the records of these queries; lse
// [rows, heads]: natural log of their softmax denominators, of the scaled logits.
std::vector<std::vector<float>> QueryWeights(const Observer& observer, std::span<const TokenRecord> rows,
                                             MatrixView<const float> lse);

// Column sums of one layer while they add up: per plane and KV head, one number per entry of the head: the sum over the
// observed queries and over the query heads of its group of weight * probability.
class AttentionSums {
 public:
  AttentionSums() = default;
  AttentionSums(int64_t planes, int64_t kv_heads);

  // Announces queries (sequence indices, ascending, behind those before), to be added next, and makes room: a head's
  // list grows to lengths[head], new entries at 0.
  void Announce(std::span<const int32_t> queries, std::span<const int64_t> lengths);
  // Where to add. [length]
  std::span<double> Plane(int64_t plane, int64_t head) { return sums_[Index(plane, head)]; }
  std::span<const double> Plane(int64_t plane, int64_t head) const { return sums_[Index(plane, head)]; }

  // The lists of planes first .. first + count - 1, plane by plane. [count * kv_heads]
  std::vector<double*> Lists(int64_t first, int64_t count);

  // Follows an eviction: only these entries (ascending) of a head remain.
  void Keep(int64_t head, std::span<const int32_t> entries);
  // Sets a plane to 0: what it had seen.
  void ClearPlane(int64_t plane);
  // Forgets all queries and entries.
  void Clear();
  // Puts back what was saved: [planes * kv_heads] lists, plane by plane, of the queries first_query .. last_query.
  void Restore(int64_t first_query, int64_t last_query, std::span<const std::span<const double>> lists);

  int64_t planes() const { return planes_; }
  int64_t kv_heads() const { return kv_heads_; }
  int64_t queries() const { return queries_; }  // observed since the last Clear
  // True when they are one stretch of the sequence; then its first one (0 without any).
  bool one_run() const { return runs_.size() <= 1; }
  int64_t first_query() const { return runs_.empty() ? 0 : runs_.front().first; }
  // Of them, how many can see the token with this sequence index.
  int64_t QueriesThatSee(int64_t token) const;

 private:
  size_t Index(int64_t plane, int64_t head) const;

  int64_t planes_ = 0, kv_heads_ = 0;
  std::vector<std::vector<double>> sums_;  // [planes * kv_heads][length]
  // The observed queries as stretches of the sequence, ascending: one, unless tokens were dropped from the prefill.
  struct Run {
    int64_t first = 0, last = 0;
    int64_t before = 0;  // queries in the runs before it
  };
  std::vector<Run> runs_;
  int64_t queries_ = 0;
};

// Mean and covariance of the queries of one layer before rotation, per query head (expected-attention).
class QueryStats {
 public:
  QueryStats() = default;
  QueryStats(int64_t heads, int64_t head_dim) : heads_(heads), head_dim_(head_dim) {}

  // Adds rows q [rows, heads * head_dim], biases included, not rotated.
  void Add(MatrixView<const float> q);
  // Of the rows of these tokens (ascending sequence indices) those that Observer's first_token and queries_every want.
  void Add(std::span<const int32_t> tokens, MatrixView<const float> q, int64_t first_token, int64_t every);
  void Clear();

  int64_t count() const { return count_; }
  int64_t heads() const { return heads_; }
  int64_t head_dim() const { return head_dim_; }
  std::vector<double> Mean(int64_t head) const;        // [head_dim]
  std::vector<double> Covariance(int64_t head) const;  // [head_dim * head_dim], divided by the count

 private:
  int64_t heads_ = 0, head_dim_ = 0, count_ = 0;
  // Sums over q - pivot, the pivot being the first row: a large common part (biases) would cost the covariance its
  // digits.
  std::vector<float> pivot_;      // [heads * head_dim]
  std::vector<double> sums_;      // [heads * head_dim]
  std::vector<double> products_;  // [heads][head_dim * head_dim], the upper triangle
};

}  // namespace purekv
