#include "serving/taken_job.h"

#include <new>
#include <optional>

namespace purekv {

using Reason = JobFailure::Reason;

Message JobsEnding() {
  return Say("the server ends; ask again in a moment");
}

void Job::Tell(const auto& failure, Reason reason) noexcept {
  try {
    listener->Failed(failure());
  } catch (...) {
    try {
      listener->Failed({reason, {}, std::nullopt});
    } catch (...) {
    }
  }
}

void Job::Fail(Reason reason, const Message& message) noexcept {
  Tell([&] { return JobFailure{reason, message, std::nullopt}; }, reason);
}

void Job::FailBy(const std::exception_ptr& thrown) noexcept {
  Tell([&] { return FailureOf(thrown); }, Reason::kInternal);
}

JobFailure Job::FailureOf(const std::exception_ptr& thrown) const {
  try {
    std::rethrow_exception(thrown);
  } catch (const Cancelled&) {
    return draining ? JobFailure{Reason::kDraining, JobsEnding(), std::nullopt}
                    : JobFailure{Reason::kCancelled, Say("cancelled"), std::nullopt};
  } catch (const JobFailed& failed) {
    return failed.failure();
  } catch (const std::bad_alloc&) {
    return {Reason::kInternal, Say("out of memory"), std::nullopt};
  } catch (const std::exception& error) {
    return {Reason::kInternal, Say(error.what()), std::nullopt};
  }
}

}  // namespace purekv
