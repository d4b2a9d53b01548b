// Runtime: the core's face of a "coffer.runtime/1" plugin and its optional parts.  Contract: sdk runtime.h.
#ifndef COFFER_PLUGIN_HOST_RUNTIME_H
#define COFFER_PLUGIN_HOST_RUNTIME_H

#include <coffer/runtime.h>

#include <functional>

#include "coffer/base/bytes.h"
#include "coffer/base/machine.h"
#include "coffer/plugin_host/plugin.h"

namespace coffer {

// One env entry or one file handed to a Machine.  The value is empty while only its place is known.
struct Delivery {
  uint32_t via = 0;  // COFFER_VIA_*, one bit
  bool secret = true;
  std::string name;        // variable, or absolute path in the Machine
  uint32_t mode = 0;       // files
  bool in_folder = false;  // files: their folder is mounted whole, for update(); only where can_update()
  bool has_owner = false;
  uint32_t uid = 0, gid = 0;
  SecretBytes value;
};

struct InstanceSpec {
  std::string name, instance_id, image, user, workdir;
  std::vector<std::string> entrypoint, argv;
  std::vector<std::pair<std::string, std::string>> env, labels;
  std::vector<Port> ports;
  std::vector<Mount> mounts;
  std::vector<std::string> cap_drop;
  std::string network;
  bool read_only = false;
  uint64_t memory_bytes = 0;  // 0: no limit
  std::string stop_signal;
  uint64_t stop_timeout_ns = 0;
};

struct InstanceStatus {
  uint32_t state = 0;  // COFFER_M_*
  std::string name, instance_id, native_id, message;
  int32_t exit_code = 0, exit_signal = 0;
  bool out_of_memory = false;  // that ended it
  int64_t created_ns = 0, started_ns = 0, finished_ns = 0;
  Bytes handle;
  std::vector<std::pair<std::string, std::string>> labels;
};

struct LogQuery {
  bool follow = false;
  int64_t since_ns = 0;
  uint64_t tail = 0;  // lines; 0 = all
  bool failed = false;  // asked of a host: of its last instance that was no good
};

class Runtime {
 public:
  static Result<Runtime> open(const PluginConfig &);
  uint32_t vias() const { return table_.vias; }
  uint32_t vias_exposed() const { return table_.vias_exposed; }
  bool concurrent() const {  // else: one call at a time
    return instance_.plugin().descriptor().flags & COFFER_PLUGIN_CONCURRENT;
  }

  Result<InstanceStatus> create(const InstanceSpec &, const std::vector<Delivery> &places,
                                const CallOptions & = {}) const;
  Result<void> start(ByteSpan handle, const std::vector<Delivery> &, const CallOptions & = {}) const;
  // Signal empty, timeout 0: as the instance's spec says.
  Result<void> stop(ByteSpan handle, std::string_view signal, uint64_t timeout_ns,
                    const CallOptions & = {}) const;
  Result<void> destroy(ByteSpan handle, bool force, const CallOptions & = {}) const;
  Result<InstanceStatus> inspect(ByteSpan handle,
                                 const CallOptions & = {}) const;  // state GONE, not an error, when gone
  Result<std::vector<InstanceStatus>> list(const std::vector<std::pair<std::string, std::string>> &labels,
                                           const CallOptions & = {}) const;
  Result<InstanceStatus> wait(ByteSpan handle,
                              const CallOptions & = {}) const;  // blocks until the state changes
  // `each(stream, time_ns, data)` answers false to stop.
  Result<void> logs(ByteSpan handle, const LogQuery &,
                    const std::function<bool(uint32_t, int64_t, ByteSpan)> &each,
                    const CallOptions & = {}) const;
  // `in(buffer)` is called when `in_fd` is readable (-1: the command gets no input) and may block no longer
  // than that; 0 = end of input, -1 = cancelled.  Answers the command's exit code.
  Result<int32_t> exec(ByteSpan handle, const std::vector<std::string> &argv,
                       const std::function<bool(uint32_t, ByteSpan)> &out,
                       const std::function<int64_t(std::span<uint8_t>)> &in, const CallOptions & = {},
                       int in_fd = -1) const;
  // The immutable reference of an image; the image as it was asked for where the runtime pins none.
  Result<std::string> ensure_image(std::string_view image, bool pull,
                                   const std::function<void(std::string_view)> &progress,
                                   const CallOptions & = {}) const;
  // Blocks.  `each(status)` answers false to stop; a status without instance_id says that now it listens.
  // kUnimplemented: the runtime does not tell of changes.
  Result<void> events(const std::vector<std::pair<std::string, std::string>> &labels,
                      const std::function<bool(const InstanceStatus &)> &each,
                      const CallOptions & = {}) const;
  // One try of a check of kind kTcp or kHttp, from inside the Machine.  kFailedPrecondition: not passed, and
  // the message is the reason alone ("connection refused").  Every other error: it could not be tried, as
  // kUnimplemented where the runtime cannot.  options.timeout_ns: how long the app has; not
  // Check::timeout_ms.
  Result<void> probe(ByteSpan handle, const Check &, const CallOptions & = {}) const;
  // Can files of a running Machine get new values?
  bool can_update() const { return instance_.interface(COFFER_RUNTIME_UPDATE_ID) != nullptr; }
  // New values for all files of one or more folders (Delivery::in_folder), each folder at once; then `signal`
  // to the app, unless it is empty.
  Result<void> update(ByteSpan handle, const std::vector<Delivery> &, std::string_view signal,
                      const CallOptions & = {}) const;
  // Removes what deliveries have left of instances that are gone; nothing where the runtime leaves nothing.
  Result<void> sweep(const CallOptions & = {}) const;
  const PluginInstance &instance() const { return instance_; }

 private:
  Runtime(PluginInstance instance, coffer_runtime table) : instance_(std::move(instance)), table_(table) {}
  PluginInstance instance_;
  coffer_runtime table_;
};

}  // namespace coffer
#endif
