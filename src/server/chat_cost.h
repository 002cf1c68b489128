// What a chat would take, before anything of it is read.
#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "models/prepared_media.h"
#include "purekv/model.h"
#include "server/reply.h"
#include "serving/job_run.h"

namespace purekv::server {

// {"prompt_tokens", "visual_tokens", "kept": [{"budget", "kv_bytes", "peak_bytes", "fits"}, ..], "seconds"}. kept: of
// the request's policy, under budgets from a twentieth up and its own. media: of its parts, in their order, as
// they are planned. memory: bytes that keys and values may take; s_per_token: of reading, where it is known. Throws
// ApiError.
OrderedJson CostObject(const std::shared_ptr<const Model>& model, const JobLimits& limits, const JobRequest& job,
                       std::vector<PreparedMedia> media, int64_t memory, std::optional<double> s_per_token);

}  // namespace purekv::server
