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
  // `live`: as a table, which ends when something else is printed.
  explicit Progress(bool live);
  Progress(const Progress &) = delete;
  Progress &operator=(const Progress &) = delete;
  ~Progress();
  // `machine` empty: of all.
  void tell(std::string_view machine, std::string_view step);

 private:
  using Clock = std::chrono::steady_clock;
  struct Row {
    std::string machine, step;
    Clock::time_point since, changed;
  };
  void end();  // the table stays as it is, and the next step begins another one
  void tick();
  void draw();

  const bool live_;
  std::mutex mutex_;
  std::condition_variable wake_;
  bool ends_ = false;
  std::string head_;
  std::vector<Row> rows_;  // in the order in which they came
  size_t drawn_ = 0;       // lines on the terminal
  std::thread ticker_;
};

}  // namespace coffer::cli
#endif
