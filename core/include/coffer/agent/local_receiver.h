// Values for a command of a host's own user (`coffer run` in server mode): the host's agent gives them to a
// process of that host over a unix socket, so that no API sees them.
//   agent -> process   code(u32; 0: done) host(32) ticket(32); else message remedy
//   agent -> process   count(u32), each: name value
// The process tells the API its ticket, and the API orders the host to hand an App's secrets over to it.  So
// it takes both: a user token whose rights the API knows, and a user whom this host lets have values.
#ifndef COFFER_AGENT_LOCAL_RECEIVER_H
#define COFFER_AGENT_LOCAL_RECEIVER_H

#include <sys/types.h>

#include <list>
#include <mutex>
#include <thread>

#include "coffer/agent/host_link.h"

namespace coffer {

// The agent's end.  Thread rule: any number of threads.
class LocalReceivers {
 public:
  struct Config {
    std::string socket;        // made anew; open to every user, who are told whether they may
    std::vector<uid_t> users;  // beside these: root and our own user, who could take the values anyway
    PublicKey host{};
  };
  // As listen_unix().
  static Result<std::unique_ptr<LocalReceivers>> listen(Config);
  ~LocalReceivers();  // REQUIRES: nobody is in take() or what it answered any more

  // kNotFound: nobody waits with that ticket, or not any more.
  Result<TakeValues> take(const Ticket &);

 private:
  struct Waiting {
    uid_t uid;
    Ticket ticket;
    MessageSocket link;
  };
  LocalReceivers(Config, sdk::Fd listener, sdk::Fd ends);
  void run();
  void accept();

  const Config config_;
  sdk::Fd listener_, ends_;
  std::mutex mutex_;
  std::list<Waiting> waiting_;
  std::thread thread_;
};

// The process's end.  Thread rule: one thread at a time.
class LocalReceiver {
 public:
  // kUnavailable: no agent there.  kPermissionDenied: not for this user.
  static Result<LocalReceiver> connect(const std::string &socket);
  const Receiver &receiver() const { return receiver_; }
  // Waits until they come.  kUnavailable: they will not.
  Result<std::vector<Delivery>> receive();
  int fd() const { return link_.fd(); }  // to shut it down from another thread, so that receive() ends

 private:
  LocalReceiver(const Receiver &receiver, MessageSocket link) : receiver_(receiver), link_(std::move(link)) {}
  Receiver receiver_;
  MessageSocket link_;
};

}  // namespace coffer
#endif
