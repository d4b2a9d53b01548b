// System calls that fail on order.  A suite that links faults.cc (with ENABLE_EXPORTS) stands in front of the
// C library for the plugin that it loads: no preloading, any plugin, any language.
#ifndef COFFER_CONFORMANCE_FAULTS_H
#define COFFER_CONFORMANCE_FAULTS_H

namespace coffer::conformance {

// While an object lives, the n-th call (from 1) that creates, opens, writes, syncs, renames or links
// something fails with `error`; with only_opens, calls that open count alone.  One at a time.
class Fault {
 public:
  Fault(int n, int error, bool only_opens = false);
  ~Fault();
  Fault(const Fault &) = delete;
  Fault &operator=(const Fault &) = delete;
  bool fired() const;
  const char *where() const;  // the call that failed
};

}  // namespace coffer::conformance
#endif
