// deliveries.h - what the C++ runtimes share: the checks of a Machine spec and of a probe, and the boot frame
// of one start.
//
// The checks look at the spec alone, not at the host.  They throw INVALID_ARGUMENT with a sentence that
// names things by name where the name is good and by number where it is not; never with a value.
// Thread rule: no globals.
#ifndef COFFER_DELIVERIES_H
#define COFFER_DELIVERIES_H
#include <coffer/runtime.hpp>

#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace coffer::runtime {

// 1 .. 128 of [A-Za-z0-9_.-], not beginning with '.': fit for a file name and for a boot frame.
bool instance_id_ok(std::string_view);
// [A-Za-z_][A-Za-z0-9_]*
bool variable_name_ok(std::string_view);

// A copy; refuses "WHAT holds a NUL byte".
std::string text(coffer_str, const char *what);

// Where the secrets of an instance will be: what create() is told and start() must then keep to.
struct Places {
  std::vector<std::string> variables;  // in the order of the spec
  std::vector<std::string> files;      // ascending as bytes: the order of a boot frame
  std::vector<std::string> folders;    // those of files with COFFER_DLV_FOLDER, ascending
};
// The folder of a file; "" for one in the root.
inline std::string folder_of(std::string_view path) { return std::string(path.substr(0, path.rfind('/'))); }
// Refuses bad names and paths, one given twice, a path that is a folder of another, a mode over 0777, an
// unknown way, a folder that holds more than files of its own.
Places check_deliveries(const coffer_machine_spec &);

// "NAME=VALUE" for each plain variable.  Refuses bad names, one given twice, a NUL byte.
std::vector<std::string> plain_env(const coffer_machine_spec &);

// Refuses an empty key, a '=' in a key, a NUL byte.
std::vector<std::pair<std::string, std::string>> labels(const coffer_machine_spec &);

// The boot frame of one start in locked memory.  Refuses deliveries that are not exactly those announced, and
// values that a frame cannot hold.  kEnvOnly: the files reach the Machine in another way.
enum class FrameOf { kAll, kEnvOnly };
sdk::SecureBuffer build_frame(std::string_view instance_id, const Places &announced,
                              const coffer_delivery *const *deliveries, size_t n, FrameOf = FrameOf::kAll);

// What update() was given, by folder.  Refuses files that are not all those of their folders.
std::map<std::string, std::vector<const coffer_delivery *>> check_update(
    const Places &announced, const coffer_delivery *const *deliveries, size_t n);

struct Probe {
  uint32_t port = 0;
  bool http = false;
  std::string method, path;  // http
};
// Refuses another kind, port 0 or over 65535, a method or path that a request line cannot hold.
Probe read_probe(const coffer_probe_spec &);
constexpr uint64_t kProbeTimeoutNs = 10'000'000'000;  // of a call without a deadline

}  // namespace coffer::runtime
#endif
