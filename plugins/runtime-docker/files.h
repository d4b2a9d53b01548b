// files.h - what the plugin keeps beside the engine: file secrets, in memory only, and one small file per
// instance that says whether it was stopped by order and whose lock lets one caller at a time start it.
#ifndef COFFER_RUNTIME_DOCKER_FILES_H
#define COFFER_RUNTIME_DOCKER_FILES_H
#include <coffer/runtime.hpp>

#include <functional>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include <coffer/posix.hpp>

namespace coffer::runtime_docker {

using sdk::Fd;

// File secrets of one engine's instances: ROOT/ENGINE/INSTANCE/N, folders 0700, in a tmpfs.  Folders that can
// be replaced: ROOT/ENGINE/INSTANCE/folderN, with one generation of the files in ..M, the link ..data to it,
// and for each file a link NAME to ..data/NAME.
class SecretFiles {
 public:
  // `wanted`: a folder named in the configuration; else the first that will do of /run/coffer (made and
  // mounted by root where it is missing), $XDG_RUNTIME_DIR/coffer and /dev/shm/coffer-UID.  Throws
  // FAILED_PRECONDITION.
  static SecretFiles open(const std::string &wanted, const std::string &runtime_dir,
                          const std::string &engine);

  // Makes `n` empty files and folders; while the answer lives, sweep() leaves them alone.
  Fd prepare(const std::string &instance, size_t n, size_t n_folders) const;
  std::string path(const std::string &instance, size_t index) const;
  // Fills one: bytes, owner, mode.  Without root the file is 0444, or 0555 where somebody may execute it,
  // below its 0700 folder.
  void fill(const std::string &instance, size_t index, const coffer_delivery &, uint32_t uid,
            uint32_t gid) const;
  std::string folder_path(const std::string &instance, size_t index) const;
  // Fills a folder, or replaces what is in it, at once.  Owners as `of` says.  REQUIRES: one caller at a
  // time.
  using Owner = std::function<std::pair<uint32_t, uint32_t>(const coffer_delivery &)>;
  void replace(const std::string &instance, size_t index, const std::vector<const coffer_delivery *> &,
               const Owner &of) const;
  // Overwrites and removes.
  void remove(const std::string &instance) const;
  std::vector<std::string> instances() const;
  // False when somebody is just making them.
  bool abandoned(const std::string &instance) const;

 private:
  explicit SecretFiles(std::string folder) : folder_(std::move(folder)) {}
  std::string folder_;
};

class InstanceNotes {
 public:
  explicit InstanceNotes(Fd folder) : folder_(std::move(folder)) {}
  // Waits for whoever has it.
  Fd lock(const sdk::Call &, const std::string &instance) const;
  void note_stop_order(const std::string &instance, bool ordered) const;
  bool stop_ordered(const std::string &instance) const;
  void remove(const std::string &instance) const;
  std::vector<std::string> instances() const;

 private:
  Fd folder_;
};

}  // namespace coffer::runtime_docker
#endif
