#include "admission.h"

namespace coffer::api {

Result<void> Admission::operator()(const PublicKey &host) {
  if (knows(host, std::chrono::seconds(1))) return {};
  std::unique_lock asking(asking_, std::try_to_lock);
  if (!asking.owns_lock()) {  // somebody is: nobody who was known waits for that
    if (knows(host, std::chrono::hours(1))) return {};
    asking.lock();
    if (knows(host, std::chrono::seconds(1))) return {};
  }
  const auto all = keys_.hosts();
  if (!all && all.error().code == ErrorCode::kUnavailable && knows(host, http::Clock::duration::max()))
    return {};
  if (!all) return std::unexpected(all.error());
  const std::lock_guard lock(mutex_);
  asked_ = http::Clock::now();
  known_.clear();
  for (const HostInfo &h : *all)
    if (!h.revoked) known_.insert(h.key);
  if (known_.contains(host)) return {};
  return fail(ErrorCode::kPermissionDenied, "it is not enrolled with the key service",
              "`coffer host enroll NAME`, then `coffer host join NAME` on the host.");
}

bool Admission::knows(const PublicKey &host, http::Clock::duration age) {
  const std::lock_guard lock(mutex_);
  return known_.contains(host) && http::Clock::now() - asked_ <= age;
}

}  // namespace coffer::api
