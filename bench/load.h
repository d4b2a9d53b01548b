// What measure_http and measure_server have in common: load on a server that is another process.
#ifndef COFFER_BENCH_LOAD_H
#define COFFER_BENCH_LOAD_H

#include <sys/types.h>

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "server/http/client.h"

namespace coffer::bench {

double seconds(http::Clock::duration);

// Of /proc/PID/status: "VmRSS" in KB, "Threads"; -1 when there is no such process.
long status_of(pid_t, const char *field);

// An open loop: call number i is due i / `rate` seconds after the start, whether or not those before it have
// been answered, and made by whichever of the `clients` threads is free first.  -> ms from when each was due
// to its answer, sorted: who had to wait for a thread has waited for the server.
std::vector<double> at_rate(int clients, int rate, int calls, const std::function<void(int client)> &ask);
double percentile(const std::vector<double> &sorted, int percent);

// Requests that wait for their answer, each on a thread and a connection of its own.
class LongPolls {
 public:
  // `apart`: the time from one to the next.
  LongPolls(const std::string &url, const http::Call &call, int polls, std::chrono::milliseconds apart = {});
  ~LongPolls();                   // hangs up
  size_t ended() const;           // were answered, or broke
  std::string first_end() const;  // how

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace coffer::bench
#endif
