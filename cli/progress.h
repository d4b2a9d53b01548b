// Progress of long work, on stderr: a table that is drawn anew on a terminal, plain lines elsewhere.
// Thread rule: any number of threads.
#ifndef COFFER_CLI_PROGRESS_H
#define COFFER_CLI_PROGRESS_H

#include <chrono>
#include <condition_variable>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

namespace coffer::cli {

class Progress {
 public:
  // `live`: as a table.
  explicit Progress(bool live) : live_(live) {}
  ~Progress() { end(); }
  // `machine` empty: of all.
  void tell(std::string_view machine, std::string_view step);
  // The table stays as it is; what is printed from here on stands below it.
  void end();

 private:
  using Clock = std::chrono::steady_clock;
  struct Row {
    std::string machine, step;
    Clock::time_point since, changed;
  };
  void tick();
  void draw();

  const bool live_;
  std::mutex mutex_;
  std::condition_variable wake_;
  bool ended_ = false;
  std::string head_;
  std::vector<Row> rows_;  // in the order in which they came
  size_t drawn_ = 0;       // lines on the terminal
  std::thread ticker_;
};

}  // namespace coffer::cli
#endif
