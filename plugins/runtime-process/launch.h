// launch.h - starts coffer-process-supervisor from a process that may have many threads.
#ifndef COFFER_RUNTIME_PROCESS_LAUNCH_H
#define COFFER_RUNTIME_PROCESS_LAUNCH_H
#include <string>
#include <vector>

#include "machine_folder.h"
#include "supervisor.h"

namespace coffer::runtime_process {

// Descriptors that the supervisor gets as 0 .. 5; -1 = /dev/null for 0 .. 2, closed for others.
struct Launch {
  std::string supervisor;
  std::vector<std::string> arguments;  // behind the program's name
  int in = -1, out = -1, err = -1, folder = -1, alive = -1, status = -1;
};
// Its pid; the environment is empty, all other descriptors closed, signals at their defaults.  Throws
// FAILED_PRECONDITION when the file cannot be run.
int launch(const Launch &);
// Waits for a process of launch(); its exit code, or -1.  For one that ends at once.
int reap(int pid);

// Two connected ends of messages, and of bytes.
std::pair<Fd, Fd> message_pair();
std::pair<Fd, Fd> byte_pair();
std::pair<Fd, Fd> pipe_pair();  // first: read end

// Next message; nothing at the end.  REQUIRES: readable, or the caller wants to wait.
bool receive(int fd, supervisor_message &out);

}  // namespace coffer::runtime_process
#endif
