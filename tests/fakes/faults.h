// How a fake is told to fail: a file fail-WHAT in its folder, "NTH STATUS WHEN".  The NTH call of WHAT from
// now fails with STATUS, `before` or `after` it has had its effect; the file is gone then.  NTH 0: every call
// fails.
#ifndef COFFER_TESTS_FAKES_FAULTS_H
#define COFFER_TESTS_FAKES_FAULTS_H

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <coffer/plugin.hpp>
#include <cstdio>
#include <fstream>
#include <string>

namespace coffer::fakes {

class Fault {
 public:
  Fault(const std::string &folder, std::string_view what) {
    if (folder.empty()) return;
    const std::string file = folder + "/fail-" + std::string(what);
    if (::access(file.c_str(), F_OK) != 0) return;
    const Turn turn(folder);  // several threads and processes count down
    int nth = 0, status = 0;
    std::string when;
    if (!(std::ifstream(file) >> nth >> status >> when)) return;
    if (nth > 1) {
      std::ofstream(file) << nth - 1 << ' ' << status << ' ' << when;
      return;
    }
    if (nth == 1) std::remove(file.c_str());
    status_ = status;
    after_ = when == "after";
  }
  void before() const {
    if (!after_) raise();
  }
  void after() const {
    if (after_) raise();
  }

 private:
  struct Turn {
    explicit Turn(const std::string &folder)
        : fd(::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC)) {
      ::flock(fd, LOCK_EX);
    }
    Turn(const Turn &) = delete;
    Turn &operator=(const Turn &) = delete;
    ~Turn() { ::close(fd); }
    int fd;
  };
  void raise() const {
    if (status_) throw sdk::Error{status_, "told to fail"};
  }
  coffer_status status_ = COFFER_OK;
  bool after_ = false;
};

// One line more in the file `calls` of the folder.
inline void note(const std::string &folder, const std::string &line) {
  if (!folder.empty()) std::ofstream(folder + "/calls", std::ios::app) << line << '\n';
}

}  // namespace coffer::fakes
#endif
