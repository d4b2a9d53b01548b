// A host that does with its requests to the key service what it should not.
//
//   coffer-rogue-host record SOCKET SERVICE FOLDER           stands between an agent and the key service at
//   SERVICE coffer-rogue-host replay SERVICE OPEN                    sends a recorded request; prints the
//   answer coffer-rogue-host ask [--new-token] SERVICE HOST_KEY OPEN
//       asks what a recorded request asked, signed anew and to be answered to a key of its own; prints
//       NAME=VALUE
//
// `record` leaves the newest request to open, as the agent signed it, in FOLDER/open, and keeps it from the
// key service while FOLDER/hold is there: its token stays unused.  HOST_KEY is a file, as is OPEN.  `ask`
// takes the recorded token or asks for another one.  Exit code 1: refused, and the sentence is printed; 2:
// something else went wrong.
#include <unistd.h>

#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>

#include "coffer/crypto/hpke_receiver.h"
#include "coffer/format/magic.h"
#include "coffer/keys/key_socket.h"

namespace {

using namespace coffer;

// The connection needs no more than a size and a verb around it, the same for every request (key_socket.h).
class Recorder : public KeyClient {
 public:
  Recorder(const std::string &service, std::filesystem::path folder)
      : KeyClient(service), folder_(std::move(folder)) {}
  Result<Bytes> open(ByteSpan signed_request) override {
    std::ofstream(folder_ / "open", std::ios::binary) << as_text(signed_request);
    if (std::filesystem::exists(folder_ / "hold"))
      return fail(ErrorCode::kUnavailable, "the key service is kept from answering");
    return KeyClient::open(signed_request);
  }

 private:
  std::filesystem::path folder_;
};

Bytes read_file(const std::string &path) {
  std::ifstream in(path, std::ios::binary);
  return Bytes((std::istreambuf_iterator<char>(in)), {});
}

// Of an envelope, whoever signed it.
Bytes payload_of(const Bytes &envelope) {
  Decoder d(envelope);
  begins(d, "cfs1");
  const ByteSpan payload = d.bytes();
  return Bytes(payload.begin(), payload.end());
}

Result<void> record(const std::string &socket, const std::string &service, const std::string &folder) {
  Recorder recorder(service, folder);
  COFFER_TRY(KeyServer server,
             KeyServer::listen({.socket = socket, .api = {}, .agents = {::geteuid()}}, recorder));
  return server.run(-1);
}

Result<void> replay(const std::string &service, const std::string &file) {
  COFFER_TRY(const Bytes answer, KeyClient(service).open(read_file(file)));
  std::fwrite(answer.data(), 1, answer.size(), stdout);
  return {};
}

Result<void> ask(bool new_token, const std::string &service, const std::string &host_key,
                 const std::string &file) {
  KeyClient keys(service);
  COFFER_TRY(const SigningKey host, SigningKey::from_seed(read_file(host_key)));
  COFFER_TRY(OpenRequest request, decode_open_request(payload_of(read_file(file))));
  if (new_token) {
    COFFER_TRY(const LaunchSpec spec, decode_spec(payload_of(request.spec)));
    TokenRequest asked;
    asked.app_id = spec.app_id;
    asked.machine = spec.machine;
    asked.instance_id = "rogue";
    asked.spec = sha256(request.spec);
    asked.nonce = random_array<16>();
    COFFER_TRY(request.token, keys.token(sign(host, kTokenRequestLabel, encode(asked))));
  }
  const KeyPair own = x25519_generate();
  request.ephemeral = own.public_key;
  const Bytes sent = sign(host, kOpenRequestLabel, encode(request));
  COFFER_TRY(const Bytes signed_answer, keys.open(sent));
  COFFER_TRY(const OpenAnswer answer, decode_open_answer(payload_of(signed_answer)));
  COFFER_TRY(HpkeReceiver receiver,
             HpkeReceiver::setup(own.private_key.reveal(), answer.enc, answer_info(sha256(sent))));
  COFFER_TRY(const SecretBytes plaintext, receiver.open(0, sha256(sent), answer.ciphertext));
  COFFER_TRY(const std::vector<OpenedSecret> opened, decode_opened(plaintext));
  for (const OpenedSecret &s : opened)
    std::printf("%s=%s\n", s.name.c_str(), std::string(as_text(s.value.reveal())).c_str());
  return {};
}

}  // namespace

int main(int argc, char **argv) {
  std::vector<std::string> words(argv + 1, argv + argc);
  const bool new_token = std::erase(words, "--new-token") > 0;
  Result<void> done;
  if (words.size() == 4 && words[0] == "record") {
    done = record(words[1], words[2], words[3]);
  } else if (words.size() == 3 && words[0] == "replay") {
    done = replay(words[1], words[2]);
  } else if (words.size() == 4 && words[0] == "ask") {
    done = ask(new_token, words[1], words[2], words[3]);
  } else {
    std::fputs(
        "coffer-rogue-host record SOCKET SERVICE FOLDER | replay SERVICE OPEN |\n"
        "                  ask [--new-token] SERVICE HOST_KEY OPEN\n",
        stderr);
    return 2;
  }
  if (done) return 0;
  std::fprintf(stderr, "%s\n", done.error().message.c_str());
  return done.error().code == ErrorCode::kPermissionDenied ? 1 : 2;
}
