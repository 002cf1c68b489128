// Asks a model one question about one video: ask_video MODEL_DIRECTORY VIDEO QUESTION
#include <purekv/purekv.h>

#include <cstdio>

int main(int argc, char** argv) {
  if (argc != 4) {
    std::fprintf(stderr, "usage: %s MODEL_DIRECTORY VIDEO QUESTION\n", argv[0]);
    return 2;
  }
  try {
    const auto model = purekv::Model::Load(argv[1], {});
    purekv::Session session(model, {});

    purekv::Turn turn;
    turn.media = {{purekv::MediaSource::Kind::kVideo, argv[2]}};
    turn.prompt = argv[3];
    const purekv::PromptInfo prompt = session.Read(turn);

    purekv::GenerateOptions options;
    options.max_new_tokens = 64;
    session.Generate(options, [](const std::string& text) {
      std::fputs(text.c_str(), stdout);
      std::fflush(stdout);
    });
    std::printf("\n%zu prompt tokens, %lld of them visual; the cache holds %lld bytes\n", prompt.ids.size(),
                static_cast<long long>(prompt.visual_tokens), static_cast<long long>(session.kv().bytes_now));
  } catch (const purekv::Error& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
