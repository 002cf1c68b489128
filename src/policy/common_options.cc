// The options that go with several policies.
#include "base/error.h"
#include "policy/codecs.h"
#include "policy/registry.h"

namespace purekv {

const std::vector<CommonOption>& CommonOptions() {
  const auto threshold = [] {
    PolicyOption option = WordOrRealOption("merge_threshold", "auto", -1, 1);
    option.range = "auto, off, mean or -1 .. 1";
    option.words.insert(option.words.end(), {"off", "mean"});
    return option;
  };
  static const std::vector<CommonOption> options = {
      {RealOption("n-attn", "0", 0, 1'000'000),
       Say("any policy: n in the denominator of the softmax that makes the output")},
      {IntegerOption("decode_every", 0, 0, kMostTokens),
       Say("policies that grow while decoding: compress again every so many steps; 0: never")},
      {RealOption("alpha", "0.2", 0, 1),
       Say(Field{"kv.allocator"}, " ada: share of the budget that every head is sure of")},
      {RealOption("beta", "20", 1, 1'000'000),
       Say(Field{"kv.allocator"}, " pyramid: the last layer keeps 1/beta of the budget")},
      {RealOption("gamma", "1", 0, 4),
       Say(Field{"kv.allocator"}, " retrieval: the power of how well a head copies that its share goes by")},
      {WordOption("prefix", {"auto", "online", "profile"}),
       Say(Field{"kv.allocator"}, " prefix: layers share by the scores of this prompt (online), or as a calibration ",
           "found (profile, which auto is where there is one)")},
      {WordOption("merge_into", {"all", "kind"}),
       Say(Field{"kv.merge"}, ": kept entries of any kind take evicted ones in, or those of the same (text, visual)")},
      {threshold(),
       Say(Field{"kv.merge"}, " by cosine: what is less like its target is dropped; mean: less than its head's mean")},
      {WordOption("merge_rotation", {"auto", "align", "keep"}),
       Say(Field{"kv.merge"}, ": keys are compared and averaged before rotation (align), or as they are stored; auto: ",
           "as the policy's authors have it, else align")},
      {IntegerOption("merge_window", 0, 0, kMostTokens),
       Say(Field{"kv.merge"}, ": only into entries at most so many tokens away; 0: into any")},
      {WordOption("merge_bias", {"0", "1"}),
       Say(Field{"kv.merge"}, ": 1 adds the logarithm of how many tokens an entry stands for to its logit")},
      {CodecOptions()[0],
       Say(Field{"kv.keys"}, " in integers: a group is a channel of several entries, or channels of one entry")},
      {CodecOptions()[1], Say(Field{"kv.keys"}, " in integers: elements that share a minimum and a step")},
      {CodecOptions()[2], Say(Field{"kv.values"}, " in integers: channels that share a minimum and a step")},
      {CodecOptions()[3], Say(Field{"kv.keys"}, " or ", Field{"kv.values"}, " in integers, or ",
                              Field{"kv.key_channels"}, ": entries are encoded so many at a time")},
      {CodecOptions()[4], Say(Field{"kv.key_channels"}, ": last queries of the part that channels are chosen by")},
      {CodecOptions()[5], Say(Field{"kv.key_channels"}, ": 1 keeps or drops both channels of a rotated pair")}};
  return options;
}

}  // namespace purekv
