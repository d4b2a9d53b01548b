// What the suite cannot say: the folder of kms-local, its two modes, and what its files must be.
#include <coffer/kms.h>
#include <fcntl.h>
#include <gmock/gmock.h>
#include <sys/stat.h>
#include <unistd.h>

#include <fstream>
#include <functional>

#include "test_host.h"

namespace coffer::conformance {
namespace {

namespace fs = std::filesystem;
using testing::AnyOf;
using testing::Eq;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;
using testing::SizeIs;

struct Outcome {
  coffer_status status = COFFER_UNKNOWN;
  std::string message;
};

class KmsLocal : public PluginTest {
 protected:
  using Opened = std::unique_ptr<OpenInstance>;
  fs::path folder() const { return tmp() / "kms"; }
  Opened start(const OptionMap &more = {}, uint32_t flags = 0) const {
    OptionMap all = more;
    all.emplace("path", folder().string());
    return try_open(all, flags);
  }
  static const coffer_kms *table(const Opened &kms) { return kms->table<coffer_kms>(COFFER_KMS_ID); }
  static int32_t ignore(void *, const coffer_key_info *) noexcept { return 0; }

  static Outcome create(const Opened &kms, std::string_view key = "root") {
    TestCall call;
    const coffer_status s = table(kms)->create(kms->raw(), call, str(key), &ignore, nullptr);
    return {s, call.message()};
  }
  static Outcome keys(const Opened &kms) {
    TestCall call;
    const coffer_status s = table(kms)->keys(kms->raw(), call, str(""), &ignore, nullptr);
    return {s, call.message()};
  }
  static Outcome wrap(const Opened &kms) {
    TestCall call;
    TestSink ciphertext, version, annotations;
    const coffer_status s = table(kms)->wrap(kms->raw(), call, str("root"), bytes("0123456789abcdef"),
                                             bytes("context"), ciphertext, version, annotations);
    return {s, call.message()};
  }
  // A store with a key; how its first wrap goes afterwards.
  void make(const OptionMap &more = {}) const {
    const Opened kms = start(more);
    ASSERT_EQ(create(kms).status, COFFER_OK);
  }
  Outcome wrap_afresh(const OptionMap &more = {}) const { return wrap(start(more)); }

  static std::string read(const fs::path &file) {
    std::ifstream in(file, std::ios::binary);
    return {std::istreambuf_iterator<char>(in), {}};
  }
  static void write(const fs::path &file, std::string_view text) {
    fs::remove(file);
    std::ofstream(file, std::ios::binary) << text;
    ::chmod(file.c_str(), 0400);
  }
  static mode_t mode(const fs::path &file) {
    struct stat st{};
    ::stat(file.c_str(), &st);
    return st.st_mode & 07777;
  }
};

TEST_F(KmsLocal, CreateMakesAPrivateFolderWithAKeyOf32Bytes) {
  const mode_t before = ::umask(0);
  make();
  ::umask(before);
  EXPECT_EQ(mode(folder()), 0700u);
  EXPECT_EQ(mode(folder() / "kek"), 0400u);
  EXPECT_EQ(read(folder() / "kek").size(), 32u);
  EXPECT_NE(read(folder() / "kek"), std::string(32, '\0'));
  EXPECT_FALSE(fs::exists(folder() / "kek.params"));
}

TEST_F(KmsLocal, APassphraseMakesParametersAndNoKeyFile) {
  make({{"passphrase", "correct horse"}});
  EXPECT_FALSE(fs::exists(folder() / "kek"));
  EXPECT_THAT(read(folder() / "kek.params"), HasSubstr("argon2id 65536 3 4\n"));
  EXPECT_EQ(mode(folder() / "kek.params"), 0400u);
}

TEST_F(KmsLocal, OpenDoesNoWorkAndTouchesNothing) {
  EXPECT_EQ(start()->status(), COFFER_OK);
  EXPECT_EQ(start({{"passphrase", "x"}})->status(), COFFER_OK);
  EXPECT_FALSE(fs::exists(folder()));
  write(tmp() / "kms", "a file");
  EXPECT_EQ(start()->status(), COFFER_OK);
}

TEST_F(KmsLocal, AWrongPassphraseIsOneClearSentenceAndNoDataLoss) {
  make({{"passphrase", "correct horse"}});
  const Opened kms = start({{"passphrase", "correct horsf"}});
  const Outcome o = wrap(kms);
  EXPECT_EQ(o.status, COFFER_PERMISSION_DENIED);
  EXPECT_EQ(o.message, "wrong passphrase for key store " + folder().string());
  EXPECT_EQ(create(kms, "other").status, COFFER_PERMISSION_DENIED);
  TestCall call;
  TestSink health;
  EXPECT_EQ(Plugin::under_test().entry().probe(kms->raw(), call, health), COFFER_PERMISSION_DENIED);
  EXPECT_EQ(wrap_afresh({{"passphrase", "correct horse"}}).status, COFFER_OK);
}

TEST_F(KmsLocal, ExactlyOneLineEndOfThePassphraseIsIgnored) {
  make({{"passphrase", "correct horse\n"}});
  for (const char *same : {"correct horse", "correct horse\r\n"})
    EXPECT_EQ(wrap_afresh({{"passphrase", same}}).status, COFFER_OK) << same;
  for (const char *other : {"correct horse\n\n", "correct horse ", " correct horse", "Correct horse"})
    EXPECT_EQ(wrap_afresh({{"passphrase", other}}).status, COFFER_PERMISSION_DENIED) << other;
}

TEST_F(KmsLocal, AnEmptyPassphraseIsRefusedAndNotTakenForAKeyFile) {
  for (const char *empty : {"", "\n", "\r\n"}) {
    const Opened kms = start({{"passphrase", empty}});
    EXPECT_EQ(kms->status(), COFFER_INVALID_ARGUMENT);
    EXPECT_EQ(kms->message(), "option passphrase is empty");
  }
}

TEST_F(KmsLocal, ARelativePathIsRefused) {
  EXPECT_EQ(start({{"path", "kms"}})->status(), COFFER_INVALID_ARGUMENT);
  EXPECT_EQ(start({{"path", ""}})->status(), COFFER_INVALID_ARGUMENT);
}

TEST_F(KmsLocal, AStoreIsNotOpenedTheOtherWay) {
  make();
  EXPECT_EQ(wrap_afresh({{"passphrase", "x"}}).status, COFFER_FAILED_PRECONDITION);
  EXPECT_THAT(wrap_afresh({{"passphrase", "x"}}).message, HasSubstr("remove option passphrase"));
  EXPECT_EQ(create(start({{"passphrase", "x"}}), "other").status, COFFER_FAILED_PRECONDITION);
  fs::remove_all(folder());
  make({{"passphrase", "x"}});
  EXPECT_EQ(wrap_afresh().status, COFFER_FAILED_PRECONDITION);
  EXPECT_THAT(wrap_afresh().message, HasSubstr("set option passphrase"));
  EXPECT_EQ(create(start(), "other").status, COFFER_FAILED_PRECONDITION);
}

TEST_F(KmsLocal, AKeyFileThatIsNotOursAloneIsRefusedWithTheReason) {
  make();
  const fs::path kek = folder() / "kek";
  const std::string good = read(kek);
  const std::vector<std::pair<std::string, std::function<void()>>> cases = {
      {"symbolic link",
       [&] {
         write(tmp() / "elsewhere", good);
         fs::create_symlink(tmp() / "elsewhere", kek);
       }},
      {"not a regular file", [&] { ASSERT_EQ(::mkfifo(kek.c_str(), 0400), 0); }},
      {"not a regular file", [&] { fs::create_directory(kek); }},
      {"must have 32 bytes", [&] { write(kek, ""); }},
      {"must have 32 bytes", [&] { write(kek, good.substr(1)); }},
      {"must have 32 bytes", [&] { write(kek, good + "\n"); }},
      {"can be read by others",
       [&] {
         write(kek, good);
         ::chmod(kek.c_str(), 0440);
       }},
      {"can be read by others",
       [&] {
         write(kek, good);
         ::chmod(kek.c_str(), 0404);
       }},
      {"is missing", [] {}},
  };
  for (const auto &[reason, damage] : cases) {
    fs::remove_all(kek);
    damage();
    const Outcome o = wrap_afresh();
    EXPECT_THAT(o.status, AnyOf(Eq(COFFER_FAILED_PRECONDITION), Eq(COFFER_DATA_LOSS))) << reason;
    EXPECT_THAT(o.message, HasSubstr(reason));
    EXPECT_THAT(o.message, HasSubstr(kek.string()));
    const Outcome c = create(start(), "other");
    EXPECT_NE(c.status, COFFER_OK) << reason << ": a new key under a broken KEK";
  }
  fs::remove_all(kek);
  write(kek, good);
  EXPECT_EQ(wrap_afresh().status, COFFER_OK);
}

TEST_F(KmsLocal, FilesOfAnotherUserAreRefused) {
  if (::geteuid() != 0) GTEST_SKIP() << "only root can give files away";
  make();
  ASSERT_EQ(::chown((folder() / "kek").c_str(), 12345, 12345), 0);
  EXPECT_THAT(wrap_afresh().message, HasSubstr("kek belongs to another user"));
  ASSERT_EQ(::chown((folder() / "kek").c_str(), 0, 0), 0);
  ASSERT_EQ(::chown(folder().c_str(), 12345, 12345), 0);
  EXPECT_THAT(wrap_afresh().message, HasSubstr("belongs to another user"));
  EXPECT_EQ(keys(start()).status, COFFER_FAILED_PRECONDITION);
}

TEST_F(KmsLocal, AFolderThatOthersCanWriteOrThatIsALinkIsRefused) {
  make();
  for (const mode_t bad : {0770, 0702, 0777}) {
    ::chmod(folder().c_str(), bad);
    EXPECT_EQ(wrap_afresh().status, COFFER_FAILED_PRECONDITION);
    EXPECT_THAT(wrap_afresh().message, HasSubstr("can be written by others"));
  }
  ::chmod(folder().c_str(), 0700);
  fs::rename(folder(), tmp() / "real");
  fs::create_directory_symlink(tmp() / "real", folder());
  EXPECT_THAT(wrap_afresh().message, HasSubstr("symbolic link"));
  fs::remove(folder());
  ASSERT_EQ(::mkfifo(folder().c_str(), 0600), 0);
  EXPECT_THAT(wrap_afresh().message, HasSubstr("is not a folder"));
  EXPECT_EQ(create(start()).status, COFFER_FAILED_PRECONDITION);
}

TEST_F(KmsLocal, ALostKeyIsNeverReplacedByANewOne) {
  make();
  fs::remove(folder() / "kek");
  EXPECT_EQ(create(start(), "other").status, COFFER_FAILED_PRECONDITION);
  EXPECT_EQ(create(start(), "root").status, COFFER_FAILED_PRECONDITION);
  EXPECT_EQ(create(start({{"passphrase", "x"}}), "root").status, COFFER_FAILED_PRECONDITION);
  EXPECT_FALSE(fs::exists(folder() / "kek"));
  EXPECT_FALSE(fs::exists(folder() / "kek.params"));
}

TEST_F(KmsLocal, NothingIsWrappedUnderAKeyThatIsNoLongerOnDisk) {
  make();
  const Opened running = start();
  ASSERT_EQ(wrap(running).status, COFFER_OK);
  fs::remove_all(folder());
  make();
  const Outcome o = wrap(running);
  EXPECT_EQ(o.status, COFFER_FAILED_PRECONDITION);
  EXPECT_THAT(o.message, HasSubstr("replaced while in use"));
  EXPECT_EQ(create(running, "other").status, COFFER_FAILED_PRECONDITION);
  fs::remove(folder() / "kek");
  EXPECT_THAT(wrap(running).message, HasSubstr("is missing"));
}

TEST_F(KmsLocal, DamagedParametersAreNeverCalledAWrongPassphrase) {
  make({{"passphrase", "x"}});
  const fs::path file = folder() / "kek.params";
  const std::string good = read(file);
  for (size_t i = 0; i < good.size(); ++i) {
    std::string bad = good;
    bad[i] = static_cast<char>(bad[i] ^ 1);
    write(file, bad);
    const Outcome o = wrap_afresh({{"passphrase", "x"}});
    EXPECT_EQ(o.status, COFFER_DATA_LOSS) << "byte " << i << ": " << o.message;
  }
  for (const std::string &bad : {std::string(), good.substr(0, good.size() / 2), good + "x", good + good}) {
    write(file, bad);
    EXPECT_EQ(wrap_afresh({{"passphrase", "x"}}).status, COFFER_DATA_LOSS) << bad.size() << " bytes";
  }
  write(file, good);
  EXPECT_EQ(wrap_afresh({{"passphrase", "x"}}).status, COFFER_OK);
}

TEST_F(KmsLocal, ADamagedKeyEntryIsNamed) {
  make();
  for (const char *bad : {"", "1 ", "1 12", "1 x\n", "2 12\n", "1 12\n\n", "1 99999999999999999999\n"}) {
    write(folder() / "root.key", bad);
    const Outcome o = keys(start());
    EXPECT_EQ(o.status, COFFER_DATA_LOSS) << '"' << bad << '"';
    EXPECT_THAT(o.message, HasSubstr((folder() / "root.key").string()));
  }
}

TEST_F(KmsLocal, WhatAnInterruptedCreateLeftBehindIsReplaced) {
  ASSERT_TRUE(fs::create_directory(folder()));
  ::chmod(folder().c_str(), 0700);
  write(folder() / "kek.tmp", "half");
  write(folder() / "root.key.tmp", "");
  make();
  EXPECT_EQ(wrap_afresh().status, COFFER_OK);
  EXPECT_FALSE(fs::exists(folder() / "kek.tmp"));
  EXPECT_FALSE(fs::exists(folder() / "root.key.tmp"));
}

TEST_F(KmsLocal, AReadOnlyStoreMakesNoKeys) {
  const Opened kms = start({}, COFFER_OPEN_READONLY);
  EXPECT_EQ(create(kms).status, COFFER_PERMISSION_DENIED);
  EXPECT_FALSE(fs::exists(folder()));
}

TEST_F(KmsLocal, TheKeyExistsOnceInMemoryAndGoesWithTheInstance) {
  make();
  const Canary canary(32);
  {
    void *plain = TestHost::get().secure_alloc(32);
    canary.reveal(plain);
    fs::remove(folder() / "kek");
    const int fd = ::open((folder() / "kek").c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0400);
    EXPECT_EQ(::write(fd, plain, 32), 32);
    ::close(fd);
    TestHost::get().secure_free(plain, 32);
  }
  ASSERT_THAT(canary.copies_in_memory(), IsEmpty());
  Opened kms = start();
  ASSERT_EQ(wrap(kms).status, COFFER_OK);
  EXPECT_THAT(canary.copies_in_memory(), SizeIs(1));
  kms.reset();
  EXPECT_THAT(canary.copies_in_memory(), IsEmpty());
  EXPECT_EQ(canary.leak_in_texts(), "");
}

TEST_F(KmsLocal, ThePassphraseIsForgottenOnceTheKeyIsDerived) {
  Canary canary(32);
  const std::string path = folder().string();
  auto *plain = static_cast<char *>(TestHost::get().secure_alloc(32));
  for (canary.reveal(plain); plain[31] == '\n' || plain[31] == '\r'; canary.reveal(plain))
    canary = Canary(32);
  const coffer_pair options[] = {{str("path"), bytes(path)},
                                 {str("passphrase"), {reinterpret_cast<uint8_t *>(plain), 32}}};
  coffer_open_args args{};
  args.struct_size = sizeof args;
  args.instance_name = str("kms");
  args.options = options;
  args.n_options = 2;
  TestCall call;
  coffer_instance *kms = nullptr;
  const coffer_plugin_entry &entry = Plugin::under_test().entry();
  ASSERT_EQ(entry.open(call, &args, &kms), COFFER_OK) << call.message();
  TestHost::get().secure_free(plain, 32);
  EXPECT_THAT(canary.copies_in_memory(), SizeIs(1)) << "kept by the plugin until it is needed";
  const auto *table = static_cast<const coffer_kms *>(entry.get_interface(kms, COFFER_KMS_ID));
  EXPECT_EQ(table->create(kms, call, str("root"), &ignore, nullptr), COFFER_OK) << call.message();
  EXPECT_THAT(canary.copies_in_memory(), IsEmpty());
  entry.close(kms);
  EXPECT_THAT(canary.files_below(tmp()), IsEmpty());
  EXPECT_EQ(canary.leak_in_texts(), "");
}

}  // namespace
}  // namespace coffer::conformance

int main(int argc, char **argv) { return coffer::conformance::run_suite(argc, argv, COFFER_KMS_ID); }
