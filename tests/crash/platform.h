// Where the Machines of a campaign run: how it is set up, and what is there, seen from outside of Coffer.
// Machines are processes of this host on every platform here, so /proc shows each app and its environment.
#ifndef COFFER_TESTS_CRASH_PLATFORM_H
#define COFFER_TESTS_CRASH_PLATFORM_H

#include <memory>
#include <set>

#include "../support/command.h"

namespace coffer::tests {

struct Broken {
  std::string what;
};

class Platform {
 public:
  virtual ~Platform() = default;
  Platform() = default;
  Platform(const Platform &) = delete;
  Platform &operator=(const Platform &) = delete;

  virtual std::string name() const = 0;
  // Words behind `coffer init`, and what is to be done after it.
  virtual Argv init() const = 0;
  virtual void set_up() {}
  // `machine run` from the image on: an app with `marker` among its arguments that takes `delay_ms` to end.
  virtual Argv app(const std::string &marker, int delay_ms) const = 0;
  // Where each Machine has the secret S_FILE; empty: nowhere.
  virtual std::string file() const { return {}; }
  // Throws Broken when there is anything but these instances, all of them listed, `started` of them running.
  virtual void check(const std::set<std::string> &instances, size_t started) const = 0;
  // Removes all that is left of the campaign.
  virtual void clean_up() noexcept = 0;
};

std::unique_ptr<Platform> process_platform(const std::filesystem::path &home);
// `image`: one whose entrypoint is tests/docker/app.c.  The engine: DOCKER_HOST, on this host.
std::unique_ptr<Platform> docker_platform(const std::filesystem::path &home, const std::string &image,
                                          const std::string &marker);

}  // namespace coffer::tests
#endif
