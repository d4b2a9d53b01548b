// kms-local: wraps keys under a key-encryption key (KEK) of this machine: 32 random bytes in a file, or
// derived from a passphrase.  README.md has the layout of the folder and what it guarantees.
//
// SPEC: wrapped = XChaCha20-Poly1305(KEK, nonce, plaintext, aad); nonce = 24 random bytes, in `annotations`;
//   aad = each of {label, key name, version, context} preceded by its length as 8 bytes little-endian.
//   Passphrase: Argon2id (RFC 9106) gives 64 bytes; the first 32 are the KEK, the last 32 the check value.
//   They are halves of one BLAKE2b output, so the check value tells nothing about the KEK but lets us tell
//   a wrong passphrase from damage.
#include <botan/aead.h>
#include <botan/build.h>
#include <botan/hash.h>
#include <botan/hex.h>
#include <botan/pwdhash.h>
#include <dirent.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <coffer/kms.hpp>
#include <coffer/posix.hpp>
#include <ctime>
#include <mutex>
#include <optional>

namespace {

using coffer::sdk::Call;
using coffer::sdk::Error;
using coffer::sdk::Fd;
using coffer::sdk::Host;
using coffer::sdk::Options;
using coffer::sdk::SecureBuffer;
using coffer::sdk::Sink;
using coffer::sdk::to_str;
using coffer::sdk::view;

constexpr size_t kKekSize = 32, kCheckSize = 32, kSaltSize = 16, kNonceSize = 24, kTagSize = 16;
constexpr size_t kMaxPlaintext = 64;
constexpr std::string_view kVersion = "1";
constexpr std::string_view kAlgorithm = "XChaCha20-Poly1305";
constexpr std::string_view kLabel = "coffer kms-local wrap v1";
constexpr const char *kKekFile = "kek";
constexpr const char *kParamsFile = "kek.params";
constexpr std::string_view kKeySuffix = ".key";

#if BOTAN_VERSION_MAJOR >= 3
constexpr auto kEncrypt = Botan::Cipher_Dir::Encryption, kDecrypt = Botan::Cipher_Dir::Decryption;
#else
constexpr auto kEncrypt = Botan::ENCRYPTION, kDecrypt = Botan::DECRYPTION;
#endif

// ---- files ----

[[noreturn]] void fail_errno(std::string_view what, const std::string &path, int error) {
  coffer_status status = COFFER_UNAVAILABLE;
  switch (error) {
    case EACCES:
    case EPERM:
    case EROFS:
      status = COFFER_PERMISSION_DENIED;
      break;
    case ENOSPC:
    case EDQUOT:
    case EMFILE:
    case ENFILE:
      status = COFFER_RESOURCE_EXHAUSTED;
      break;
    case ENOENT:
    case ENOTDIR:
    case ELOOP:
      status = COFFER_FAILED_PRECONDITION;
      break;
    default:
      break;
  }
  char text[128];
  const char *reason = ::strerror_r(error, text, sizeof text);
  throw Error{status, std::string(what) + " " + path + ": " + reason, "errno", error};
}

// Reads at most `size` bytes; answers how many there were.
size_t read_full(int fd, void *out, size_t size, const std::string &path) {
  size_t done = 0;
  while (done < size) {
    const ssize_t n = ::read(fd, static_cast<uint8_t *>(out) + done, size - done);
    if (n == 0) break;
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) fail_errno("cannot read", path, errno);
    done += static_cast<size_t>(n);
  }
  return done;
}

// The folder of the KEK, checked: not a symbolic link, ours, not writable by others.  All files are named
// relative to its descriptor, so it cannot be exchanged in between.
class Folder {
 public:
  // nullopt when it does not exist.
  static std::optional<Folder> open(const std::string &path) {
    Fd fd(::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
    if (!fd) {
      const int error = errno;
      if (error == ENOENT) return std::nullopt;
      if (error == ENOTDIR || error == ELOOP)
        throw Error{COFFER_FAILED_PRECONDITION, path + " is not a folder (a symbolic link is refused)"};
      fail_errno("cannot open folder", path, error);
    }
    struct stat st;
    if (::fstat(fd.get(), &st) != 0) fail_errno("cannot inspect folder", path, errno);
    if (st.st_uid != ::geteuid() && st.st_uid != 0)
      throw Error{COFFER_FAILED_PRECONDITION, "folder " + path + " belongs to another user"};
    if (st.st_mode & 022)
      throw Error{COFFER_FAILED_PRECONDITION,
                  "folder " + path + " can be written by others: run chmod 700 " + path};
    return Folder(std::move(fd), path);
  }

  static Folder create(const std::string &path) {
    if (::mkdir(path.c_str(), 0700) != 0 && errno != EEXIST) fail_errno("cannot make folder", path, errno);
    std::optional<Folder> folder = open(path);
    if (!folder) throw Error{COFFER_ABORTED, "folder " + path + " vanished"};
    return *std::move(folder);
  }

  std::string path(std::string_view name) const { return path_ + "/" + std::string(name); }

  // One process at a time makes keys; the lock goes with the descriptor, also by kill -9.
  void lock() const {
    while (::flock(fd_.get(), LOCK_EX) != 0)
      if (errno != EINTR) fail_errno("cannot lock", path_, errno);
  }

  bool has(const std::string &name) const {
    struct stat st;
    if (::fstatat(fd_.get(), name.c_str(), &st, AT_SYMLINK_NOFOLLOW) == 0) return true;
    if (errno != ENOENT) fail_errno("cannot inspect", path(name), errno);
    return false;
  }

  // nullopt when there is none.  O_NONBLOCK: a FIFO must not hold us up.
  std::optional<Fd> open_file(const std::string &name, bool private_to_us) const {
    Fd fd(::openat(fd_.get(), name.c_str(), O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC));
    if (!fd) {
      const int error = errno;
      if (error == ENOENT) return std::nullopt;
      if (error == ELOOP)
        throw Error{COFFER_FAILED_PRECONDITION,
                    path(name) + " is a symbolic link: put the file itself there"};
      if (error == ENXIO) throw Error{COFFER_FAILED_PRECONDITION, path(name) + " is not a regular file"};
      fail_errno("cannot open", path(name), error);
    }
    struct stat st;
    if (::fstat(fd.get(), &st) != 0) fail_errno("cannot inspect", path(name), errno);
    if (!S_ISREG(st.st_mode)) throw Error{COFFER_FAILED_PRECONDITION, path(name) + " is not a regular file"};
    if (st.st_uid != ::geteuid())
      throw Error{COFFER_FAILED_PRECONDITION, path(name) + " belongs to another user"};
    if (private_to_us && (st.st_mode & 077))
      throw Error{COFFER_FAILED_PRECONDITION,
                  path(name) + " can be read by others: run chmod 400 " + path(name)};
    return fd;
  }

  // All of a small text file; nullopt when there is none.
  std::optional<std::string> read_text(const std::string &name) const {
    const std::optional<Fd> fd = open_file(name, false);
    if (!fd) return std::nullopt;
    std::string text(1024, '\0');
    text.resize(read_full(fd->get(), text.data(), text.size(), path(name)));
    return text;
  }

  // Durable and all or nothing.  REQUIRES: lock(), and the file does not exist.  A temporary file of a
  // process that died is replaced; nothing was ever wrapped under what it holds.
  void write(const std::string &name, const void *data, size_t size) const {
    const std::string temp = name + ".tmp";
    if (::unlinkat(fd_.get(), temp.c_str(), 0) != 0 && errno != ENOENT)
      fail_errno("cannot remove", path(temp), errno);
    Fd fd(::openat(fd_.get(), temp.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0400));
    if (!fd) fail_errno("cannot make", path(temp), errno);
    int error = 0;
    for (size_t done = 0; done < size && !error;) {
      const ssize_t n = ::write(fd.get(), static_cast<const uint8_t *>(data) + done, size - done);
      if (n > 0)
        done += static_cast<size_t>(n);
      else if (n == 0 || errno != EINTR)
        error = n == 0 ? EIO : errno;
    }
    if (!error && ::fchmod(fd.get(), 0400) != 0) error = errno;  // whatever the umask was
    if (!error && ::fsync(fd.get()) != 0) error = errno;
    if (!error && ::renameat(fd_.get(), temp.c_str(), fd_.get(), name.c_str()) != 0) error = errno;
    if (error) {
      ::unlinkat(fd_.get(), temp.c_str(), 0);
      fail_errno("cannot write", path(name), error);
    }
    if (::fsync(fd_.get()) != 0) fail_errno("cannot write folder of", path(name), errno);
  }

  // The names of all keys, sorted.
  std::vector<std::string> keys() const {
    const int copy = ::openat(fd_.get(), ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *dir = copy >= 0 ? ::fdopendir(copy) : nullptr;
    if (!dir) {
      const int error = errno;
      if (copy >= 0) ::close(copy);
      fail_errno("cannot list folder", path_, error);
    }
    const std::unique_ptr<DIR, void (*)(DIR *)> owner(dir, [](DIR *d) { ::closedir(d); });
    std::vector<std::string> names;
    for (errno = 0; const dirent *entry = ::readdir(dir); errno = 0) {
      const std::string_view file = entry->d_name;
      if (file.size() > kKeySuffix.size() && file.ends_with(kKeySuffix))
        names.emplace_back(file.substr(0, file.size() - kKeySuffix.size()));
    }
    if (errno) fail_errno("cannot list folder", path_, errno);
    std::sort(names.begin(), names.end());
    return names;
  }

 private:
  Folder(Fd fd, std::string path) : fd_(std::move(fd)), path_(std::move(path)) {}
  Fd fd_;
  std::string path_;
};

// ---- the passphrase's parameters: kek.params ----
//
//   coffer kms-local 1
//   argon2id 65536 3 4                  memory in KiB, passes, lanes
//   salt <32 hex digits>
//   check <64 hex digits>
//   sum <64 hex digits>                 BLAKE2b-256 of the lines above
struct Params {
  size_t memory_kib = 64 * 1024, passes = 3, lanes = 4;
  std::vector<uint8_t> salt, check;

  std::string body() const {
    return "coffer kms-local 1\nargon2id " + std::to_string(memory_kib) + " " + std::to_string(passes) + " " +
           std::to_string(lanes) + "\nsalt " + Botan::hex_encode(salt, false) + "\ncheck " +
           Botan::hex_encode(check, false) + "\n";
  }
  static std::string sum(std::string_view body) {
    const auto hash = Botan::HashFunction::create_or_throw("BLAKE2b(256)");
    hash->update(reinterpret_cast<const uint8_t *>(body.data()), body.size());
    return Botan::hex_encode(hash->final(), false);
  }
  std::string text() const { return body() + "sum " + sum(body()) + "\n"; }

  // The sum makes damage recognisable, so that it is never taken for a wrong passphrase.  The bounds keep a
  // changed file from weakening the derivation or exhausting memory.
  static Params parse(std::string_view text, const std::string &path) {
    const Error damaged{COFFER_DATA_LOSS, path + " is damaged: restore it from a copy"};
    const size_t at = text.rfind("sum ");
    if (at == text.npos || text.substr(at) != "sum " + sum(text.substr(0, at)) + "\n") throw damaged;
    Params p;
    char salt[2 * kSaltSize + 1], check[2 * kCheckSize + 1];
    if (std::sscanf(std::string(text).c_str(),
                    "coffer kms-local 1\nargon2id %9zu %9zu %9zu\nsalt %32[0-9a-f]\ncheck %64[0-9a-f]\n",
                    &p.memory_kib, &p.passes, &p.lanes, salt, check) != 5)
      throw Error{COFFER_UNIMPLEMENTED, path + " has a format that this version does not know"};
    p.salt = Botan::hex_decode(salt);
    p.check = Botan::hex_decode(check);
    if (p.body() != text.substr(0, at)) throw damaged;
    if (p.memory_kib < 64 * 1024 || p.memory_kib > 4 * 1024 * 1024 || p.passes < 3 || p.passes > 100 ||
        p.lanes < 1 || p.lanes > 64)
      throw Error{COFFER_FAILED_PRECONDITION, path + " asks for Argon2id parameters out of bounds"};
    return p;
  }

  // KEK and check value, in that order.
  SecureBuffer derive(const SecureBuffer &passphrase) const {
    SecureBuffer out(kKekSize + kCheckSize);
    Botan::PasswordHashFamily::create_or_throw("Argon2id")
        ->from_params(memory_kib, passes, lanes)
        ->derive_key(out.data(), out.size(), reinterpret_cast<const char *>(passphrase.data()),
                     passphrase.size(), salt.data(), salt.size());
    return out;
  }
};

bool same_bytes(const uint8_t *a, const uint8_t *b, size_t n) noexcept {  // in constant time
  uint8_t diff = 0;
  for (size_t i = 0; i < n; ++i) diff |= static_cast<uint8_t>(a[i] ^ b[i]);
  return diff == 0;
}

std::vector<uint8_t> associated_data(std::string_view key, std::string_view version, coffer_bytes context) {
  std::vector<uint8_t> aad;
  for (const std::string_view part : {kLabel, key, version, view(context)}) {
    for (int shift = 0; shift < 64; shift += 8) aad.push_back(static_cast<uint8_t>(part.size() >> shift));
    aad.insert(aad.end(), part.begin(), part.end());
  }
  return aad;
}

// [a-z0-9][a-z0-9_-]{0,62}: harmless as a file name.
bool valid_key_name(std::string_view name) {
  if (name.empty() || name.size() > 63 || name[0] == '-' || name[0] == '_') return false;
  return std::all_of(name.begin(), name.end(), [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-' || c == '_';
  });
}

// ---- the plugin ----

class KmsLocal final : public coffer::sdk::Kms {
 public:
  static std::vector<std::string> validate(const Options &options) {
    std::vector<std::string> wrong;
    const std::string_view path = options.get("path");
    if (path.empty() || path[0] != '/' || path.find('\0') != path.npos)
      wrong.push_back("option path must be an absolute path");
    return wrong;
  }

  // Does no I/O: the KEK is read or derived when it is first needed.
  static std::unique_ptr<Instance> open(const Call &, const Options &options) {
    for (const std::string &w : validate(options)) throw Error{COFFER_INVALID_ARGUMENT, w};
    std::unique_ptr<KmsLocal> kms(new KmsLocal(options));
    if (kms->by_passphrase_) {
      std::string_view passphrase = options.get("passphrase");
      if (passphrase.ends_with('\n')) passphrase.remove_suffix(1);  // what an editor or echo appends
      if (passphrase.ends_with('\r')) passphrase.remove_suffix(1);
      if (passphrase.empty()) throw Error{COFFER_INVALID_ARGUMENT, "option passphrase is empty"};
      kms->passphrase_.emplace(passphrase.size());
      std::memcpy(kms->passphrase_->data(), passphrase.data(), passphrase.size());
    }
    return kms;
  }

  std::string probe(const Call &) override {
    const std::optional<Folder> folder = Folder::open(path_);
    const size_t n = folder ? folder->keys().size() : 0;
    if (n > 0) kek(*folder, kToRead);
    return std::string(R"({"kek":")") + (by_passphrase_ ? "passphrase" : "file") + R"(","keys":)" +
           std::to_string(n) + "}";
  }

  void keys(const Call &call, std::string_view key, const Keys &emit) override {
    const std::optional<Folder> folder = Folder::open(path_);
    if (!folder) return;
    for (const std::string &name : folder->keys()) {
      if (call.cancelled()) throw Error{COFFER_CANCELLED, "cancelled"};
      if ((key.empty() || key == name) && !emit_key(*folder, name, emit)) return;
    }
  }

  void create(const Call &, std::string_view key, const Keys &emit) override {
    if (!valid_key_name(key))
      throw Error{COFFER_INVALID_ARGUMENT,
                  "a key's name has 1 to 63 of a-z 0-9 - _ and begins with one of a-z 0-9"};
    if (read_only_) throw Error{COFFER_PERMISSION_DENIED, "key store " + path_ + " is opened read-only"};
    const Folder folder = Folder::create(path_);
    folder.lock();
    const std::string name(key), file = name + std::string(kKeySuffix);
    make_kek_if_new(folder);
    kek(folder, kToWrite);
    if (!folder.has(file)) {
      timespec now{};
      ::clock_gettime(CLOCK_REALTIME, &now);
      const std::string text = std::string(kVersion) + " " +
                               std::to_string(int64_t{now.tv_sec} * 1'000'000'000 + now.tv_nsec) + "\n";
      folder.write(file, text.data(), text.size());
    }
    emit_key(folder, name, emit);
  }

  void wrap(const Call &, std::string_view key, coffer_bytes plaintext, coffer_bytes context,
            const Sink &ciphertext, const Sink &version, const Sink &annotations) override {
    if (plaintext.size < 1 || plaintext.size > kMaxPlaintext)
      throw Error{COFFER_INVALID_ARGUMENT,
                  "a key to wrap has 1 to 64 bytes, this one has " + std::to_string(plaintext.size)};
    const Folder folder = folder_of(key);
    uint8_t nonce[kNonceSize];
    Host::random(nonce, sizeof nonce);
    const auto cipher = this->cipher(kEncrypt, folder);
    cipher->set_associated_data_vec(associated_data(key, kVersion, context));
    cipher->start(nonce, sizeof nonce);
    Botan::secure_vector<uint8_t> text(plaintext.data, plaintext.data + plaintext.size);
    cipher->finish(text);
    ciphertext.write(text.data(), text.size());
    version.write(kVersion);
    annotations.write(nonce, sizeof nonce);
  }

  void unwrap(const Call &, const coffer_wrapped &wrapped, coffer_bytes context,
              const Sink &plaintext) override {
    const std::string_view key = view(wrapped.key), version = view(wrapped.version);
    if (!plaintext.secret())
      throw Error{COFFER_INVALID_ARGUMENT, "an unwrapped key goes to secret memory only"};
    const Folder folder = folder_of(key);
    if (version != kVersion)
      throw Error{COFFER_NOT_FOUND, "key " + std::string(key) + " has no such version in " + path_};
    if (wrapped.annotations.size != kNonceSize || wrapped.ciphertext.size <= kTagSize ||
        wrapped.ciphertext.size > kMaxPlaintext + kTagSize)
      throw Error{COFFER_DATA_LOSS,
                  "what was wrapped by key " + std::string(key) + " is damaged: wrong size"};
    const auto cipher = this->cipher(kDecrypt, folder);
    cipher->set_associated_data_vec(associated_data(key, version, context));
    cipher->start(wrapped.annotations.data, wrapped.annotations.size);
    Botan::secure_vector<uint8_t> text(wrapped.ciphertext.data,
                                       wrapped.ciphertext.data + wrapped.ciphertext.size);
    try {
      cipher->finish(text);
    } catch (const Botan::Invalid_Authentication_Tag &) {
      throw Error{COFFER_DATA_LOSS, "what was wrapped by key " + std::string(key) +
                                        " does not verify: it was changed, or belongs to another context, "
                                        "key or KEK"};
    }
    std::memcpy(plaintext.reserve(text.size()), text.data(), text.size());
    plaintext.commit(text.size());
  }

 private:
  explicit KmsLocal(const Options &options)
      : path_(options.get("path")),
        read_only_(options.read_only()),
        by_passphrase_(options.has("passphrase")) {}

  Folder folder_of(std::string_view key) const {
    std::optional<Folder> folder = Folder::open(path_);
    if (!folder || !valid_key_name(key) || !folder->has(std::string(key) + std::string(kKeySuffix)))
      throw Error{COFFER_NOT_FOUND, (valid_key_name(key) ? "key " + std::string(key) : "a key of that name") +
                                        " does not exist in " + path_};
    return *std::move(folder);
  }

  bool has_kek(const Folder &folder) const {
    const bool file = folder.has(kKekFile), params = folder.has(kParamsFile);
    if (by_passphrase_ && file)
      throw Error{COFFER_FAILED_PRECONDITION,
                  path_ + " is protected by a key file: remove option passphrase"};
    if (!by_passphrase_ && params)
      throw Error{COFFER_FAILED_PRECONDITION,
                  path_ + " is protected by a passphrase: set option passphrase = \"file:/path\""};
    return file || params;
  }

  // A KEK is only ever made for an empty store: with keys there, a missing one has been lost.
  // REQUIRES: folder is locked.
  void make_kek_if_new(const Folder &folder) {
    const std::lock_guard lock(mutex_);
    if (has_kek(folder) || kek_ || !folder.keys().empty()) return;
    if (!by_passphrase_) {
      SecureBuffer kek(kKekSize);
      Host::random(kek.data(), kek.size());
      folder.write(kKekFile, kek.data(), kek.size());
      return;
    }
    Params params;
    params.salt.resize(kSaltSize);
    Host::random(params.salt.data(), params.salt.size());
    const SecureBuffer derived = params.derive(*passphrase_);
    params.check.assign(derived.data() + kKekSize, derived.data() + kKekSize + kCheckSize);
    const std::string text = params.text();
    folder.write(kParamsFile, text.data(), text.size());
  }

  // The KEK, read or derived at its first use and kept in locked memory until close.  To write, it must
  // still be the one on disk: what another one wraps could not be unwrapped after a restart.
  enum Purpose { kToRead, kToWrite };
  const uint8_t *kek(const Folder &folder, Purpose purpose) {
    const std::lock_guard lock(mutex_);
    if (kek_ && purpose == kToRead) return kek_->data();
    if (!has_kek(folder))
      throw Error{COFFER_FAILED_PRECONDITION,
                  folder.path(by_passphrase_ ? kParamsFile : kKekFile) +
                      " is missing: restore it from a copy; without it no secret can be opened"};
    const bool same = by_passphrase_ ? load_params(folder) : load_file(folder);
    if (!same)
      throw Error{COFFER_FAILED_PRECONDITION, "the key of " + path_ + " was replaced while in use: restart"};
    return kek_->data();
  }

  // These two answer whether the KEK on disk is the one that is loaded; the first time they load it.
  bool load_params(const Folder &folder) {
    std::string text = folder.read_text(kParamsFile).value_or("");
    if (kek_) return text == params_;
    const Params params = Params::parse(text, folder.path(kParamsFile));
    SecureBuffer derived = params.derive(*passphrase_);
    if (!same_bytes(derived.data() + kKekSize, params.check.data(), kCheckSize))
      throw Error{COFFER_PERMISSION_DENIED, "wrong passphrase for key store " + path_};
    kek_ = std::move(derived);
    params_ = std::move(text);
    passphrase_.reset();
    return true;
  }

  bool load_file(const Folder &folder) {
    const std::string path = folder.path(kKekFile);
    const std::optional<Fd> fd = folder.open_file(kKekFile, true);
    if (!fd) throw Error{COFFER_ABORTED, path + " vanished"};
    SecureBuffer bytes(kKekSize + 1);
    if (read_full(fd->get(), bytes.data(), bytes.size(), path) != kKekSize)
      throw Error{COFFER_DATA_LOSS, path + " must have 32 bytes: restore it from a copy"};
    if (kek_) return same_bytes(bytes.data(), kek_->data(), kKekSize);
    kek_ = std::move(bytes);
    return true;
  }

  std::unique_ptr<Botan::AEAD_Mode> cipher(Botan::Cipher_Dir direction, const Folder &folder) {
    auto cipher = Botan::AEAD_Mode::create_or_throw("ChaCha20Poly1305", direction);
    cipher->set_key(kek(folder, direction == kEncrypt ? kToWrite : kToRead), kKekSize);
    return cipher;
  }

  bool emit_key(const Folder &folder, const std::string &name, const Keys &emit) const {
    const std::string file = name + std::string(kKeySuffix);
    const std::string text = folder.read_text(file).value_or("");
    coffer_key_info info{};
    const std::string prefix = std::string(kVersion) + " ";
    const char *end = text.data() + text.size();
    const auto [rest, error] =
        std::from_chars(text.data() + std::min(prefix.size(), text.size()), end, info.created_ns);
    if (!text.starts_with(prefix) || !text.ends_with('\n') || error != std::errc() || rest != end - 1)
      throw Error{COFFER_DATA_LOSS, folder.path(file) + " is damaged: restore it from a copy"};
    info.struct_size = sizeof info;
    info.flags = COFFER_KEYF_PRIMARY | COFFER_KEYF_CONTEXT;
    info.state = COFFER_KEY_ENABLED;
    info.key = to_str(name);
    info.version = to_str(kVersion);
    info.algorithm = to_str(kAlgorithm);
    return emit(info);
  }

  const std::string path_;
  const bool read_only_, by_passphrase_;
  std::mutex mutex_;                        // guards what follows; a KEK that is there stays as it is
  std::optional<SecureBuffer> passphrase_;  // until the KEK is derived
  std::optional<SecureBuffer> kek_;         // its first 32 bytes
  std::string params_;                      // the text that it was derived with
};

constexpr coffer_option kPath = {
    sizeof(coffer_option),
    COFFER_OPT_PATH,
    0,
    COFFER_OPTF_REQUIRED,
    "path",
    "folder of the key-encryption key; made with mode 0700 when the first key is created",
    nullptr,
    "kms",
    nullptr,
    1,
    0};
constexpr coffer_option kPassphrase = {sizeof(coffer_option),
                                       COFFER_OPT_STRING,
                                       0,
                                       COFFER_OPTF_SECRET,
                                       "passphrase",
                                       "derive the key-encryption key from this passphrase instead of "
                                       "keeping it in a file; one line end is ignored",
                                       nullptr,
                                       "file:/etc/coffer/passphrase",
                                       nullptr,
                                       1,
                                       0};
constexpr const coffer_option *kOptions[] = {&kPath, &kPassphrase};
constexpr coffer_interface_ref kInterfaces[] = {{COFFER_KMS_ID, 0}};
constexpr coffer_descriptor kDescriptor = {sizeof(coffer_descriptor),
                                           COFFER_PLUGIN_CONCURRENT,
                                           "coffer.kms-local",
                                           "kms-local",
                                           "0.1.0",
                                           "Coffer",
                                           "Apache-2.0",
                                           "",
                                           "Wraps keys under a key file or a passphrase of this machine",
                                           kInterfaces,
                                           1,
                                           kOptions,
                                           2};
}  // namespace

COFFER_PLUGIN(KmsLocal, kDescriptor);
