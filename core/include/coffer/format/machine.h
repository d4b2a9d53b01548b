// What a Machine is told to be: its config, its launch specs, and the records about it.
//   config  = "cfc3" name process image image_name entrypoint* argv* (key value)* file* user workdir
//             stop_signal stop_timeout_ms(u64) kind(u8) port* mount* cap_drop* network read_only(u8)
//             memory_bytes(u64) restart(u8) chosen(u8) (secret variable)* check* reload*
//                                                                  lists: u32 count, then the elements
//             "cfc2" ends behind restart, "cfc1" behind kind; reload*: one text a file
//   port    = host_ip host_port(u32) port(u32) udp(u8)             mount = source target read_only(u8)
//   check   = name kind(u8) port(u32) method path command* grace_ms(u64) interval_ms(u64) timeout_ms(u64)
//   file    = guest_path secret literal mode(u32) encoding(u8) env(u8) has_owner(u8) uid(u32) gid(u32)
//   spec    = "cfl1" app_id(16) machine number(u64) undo(32) config(u32 length, bytes) version(u64)
//   header(32)
//             release(u64) created_ms(u64)                         signed: kLaunchSpecLabel
//   machine = "cfx1" app_id(16) id name desired(u8) spec_number(u64) spec(32) created_ms(u64) updated_ms(u64)
//                                                                  signed: kMachineLabel
//   release = "cfe2" app_id(16) number(u64) version(u64) outcome(u8) created_ms(u64) who reason why
//             has(u8) [policy] config(bytes)*
//             signed: kReleaseLabel; "cfe1" ends behind reason
//   policy  = strategy(u8) max_unavailable(u32) smoke_ms(u64) patience_ms(u64)
//   rollout = "cfR1" app_id(16) release(u64) version(u64) stage(u8) owner beat(u64) waves(u32) hasty(u8) why
//             step* removed*                                       signed: kRolloutLabel
//   step    = machine name next(32) back(32) made(u8) ran(u8)
#ifndef COFFER_FORMAT_MACHINE_H
#define COFFER_FORMAT_MACHINE_H

#include <optional>

#include "coffer/base/machine.h"
#include "coffer/format/app.h"

namespace coffer {

enum class FileEncoding : uint8_t { kRaw = 0, kBase64 = 1 };  // how the secret's value holds the file's bytes

struct FileBinding {
  std::string guest_path;
  std::string secret;  // empty: the bytes are `literal`, which is not secret
  std::string literal;
  uint32_t mode = 0400;
  FileEncoding encoding = FileEncoding::kRaw;
  bool env = false;  // also an env entry
  bool has_owner = false;
  uint32_t uid = 0, gid = 0;
  // What a new value does to a running Machine: "" boots it anew; "none" and "signal:NAME" replace the file
  // in it, which takes a folder of its own, and then do nothing or send the app a signal.
  std::string reload;
};

enum class MachineKind : uint8_t { kService = 0, kLocal = 1 };  // kLocal: `coffer run`, not listed

struct MachineConfig {
  std::string name, process;
  std::string image;       // the immutable reference
  std::string image_name;  // as it was asked for
  std::vector<std::string> entrypoint, argv;
  std::vector<std::pair<std::string, std::string>> env;  // sorted, not secret
  std::vector<FileBinding> files;
  std::string user, workdir;
  std::string stop_signal;       // empty: SIGTERM
  uint64_t stop_timeout_ms = 0;  // 0: the default of 10 s
  MachineKind kind = MachineKind::kService;
  std::vector<Port> ports;
  std::vector<Mount> mounts;
  std::vector<std::string> cap_drop;
  std::string network;  // empty: the platform's default
  bool read_only = false;
  uint64_t memory_bytes = 0;  // 0: no limit
  RestartPolicy restart = RestartPolicy::kOnFailure;
  std::optional<std::vector<SecretVariable>> secrets;  // its variables; nullopt: all secrets
  std::vector<Check> checks;
};
Bytes encode(const MachineConfig &);
Result<MachineConfig> decode_config(ByteSpan);

struct LaunchSpec {
  AppId app_id{};
  std::string machine;
  uint64_t number = 0;  // rises per Machine
  Hash undo{};          // the Machine's last good spec; zeros: none
  MachineConfig config;
  uint64_t version = 0;  // of the manifest
  Hash header{};         // of the manifest
  uint64_t release = 0;
  uint64_t created_ms = 0;
};
Bytes encode(const LaunchSpec &);
Result<LaunchSpec> decode_spec(ByteSpan payload);

// A launch spec with its envelope and the envelope's hash, which is its name.
struct SignedSpec {
  LaunchSpec spec;
  Bytes envelope;
  Hash hash{};
};
Result<SignedSpec> open_spec(Bytes envelope, std::span<const PublicKey> writers);

enum class Desired : uint8_t { kStarted = 1, kStopped = 2, kDestroyed = 3 };

struct MachineRecord {
  AppId app_id{};
  std::string id;  // 14 hex digits
  std::string name;
  Desired desired = Desired::kStarted;
  uint64_t spec_number = 0;  // the newest launch spec
  Hash spec{};
  uint64_t created_ms = 0, updated_ms = 0;
};
Bytes encode(const MachineRecord &);
Result<MachineRecord> decode_machine(ByteSpan payload);

enum class ReleaseOutcome : uint8_t { kRunning = 1, kDone = 2, kFailed = 3 };

struct Release {
  AppId app_id{};
  uint64_t number = 0;
  uint64_t version = 0;  // of the manifest
  ReleaseOutcome outcome = ReleaseOutcome::kRunning;
  uint64_t created_ms = 0;
  std::string who, reason;
  std::string why;                     // it failed
  std::optional<DeployPolicy> policy;  // as an App config said, then or before; absent: none did
  std::vector<MachineConfig> configs;  // of each process, in a release of `coffer deploy`
};
Bytes encode(const Release &);
Result<Release> decode_release(ByteSpan payload);

// The roll-out of an App that is under way: what is needed to finish or undo it.  Where each Machine is, its
// host knows.
struct Rollout {
  enum class Stage : uint8_t { kForward = 1, kBack = 2 };
  struct Step {
    std::string machine, name;
    Hash next{}, back{};  // launch specs; back zeros: there is none
    bool made = false;    // by this release: going back destroys it
    bool ran = false;     // when the release was made
  };
  AppId app_id{};
  uint64_t release = 0, version = 0;
  Stage stage = Stage::kForward;
  std::string owner;                 // process or worker that is at work with it (base/process.h)
  uint64_t beat = 0;                 // rises while the owner lives
  uint32_t waves = 0;                // whose Machines are good
  bool hasty = false;                // without smoke time and checks
  std::string why;                   // it goes back
  std::vector<Step> steps;           // in the order of the waves
  std::vector<std::string> removed;  // Machines that go when all is good
};
Bytes encode(const Rollout &);
Result<Rollout> decode_rollout(ByteSpan payload);

}  // namespace coffer
#endif
