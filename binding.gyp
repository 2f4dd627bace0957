{
  # One static library per instruction set, each with its own flags: ops/cpu/dispatch.cc chooses at run time.
  "target_defaults": {
    "cflags_cc!": ["-std=gnu++17", "-std=gnu++20", "-fno-exceptions", "-fno-rtti", "-O2"],
    "cflags!": ["-O2"],
    "cflags_cc": ["-std=c++17", "-O3", "-Wall", "-Wextra", "-fexceptions", "-ffp-contract=fast", "-fvisibility=hidden"],
    "xcode_settings": {
      "CLANG_CXX_LANGUAGE_STANDARD": "c++17",
      "GCC_ENABLE_CPP_EXCEPTIONS": "YES",
      "GCC_OPTIMIZATION_LEVEL": "3",
      "GCC_SYMBOLS_PRIVATE_EXTERN": "YES",
      "MACOSX_DEPLOYMENT_TARGET": "11.0",
      "OTHER_CPLUSPLUSFLAGS": ["-ffp-contract=fast"]
    }
  },
  "targets": [
    {
      "target_name": "bge",
      "sources": ["<!@(node -p \"require('./native/sources.json').common.join(' ')\")"],
      "include_dirs": ["<!(node -p \"require('node-addon-api').include_dir\")"],
      "defines": ["NAPI_VERSION=8", "NODE_ADDON_API_CPP_EXCEPTIONS", "NODE_API_SWALLOW_UNTHROWABLE_EXCEPTIONS"],
      "dependencies": ["bge_base"],
      "conditions": [["target_arch=='x64'", { "dependencies": ["bge_avx2", "bge_avx512", "bge_avx512vnni", "bge_avx512bf16"] }]]
    },
    {
      "target_name": "bge_base",
      "type": "static_library",
      "sources": ["<!@(node -p \"require('./native/sources.json').base.join(' ')\")"],
      "conditions": [["target_arch=='x64'", { "cflags_cc": ["-march=x86-64-v2"] }]]
    }
  ],
  "conditions": [
    ["target_arch=='x64'", {
      "targets": [
        {
          "target_name": "bge_avx2",
          "type": "static_library",
          "sources": ["<!@(node -p \"require('./native/sources.json').avx2.join(' ')\")"],
          "cflags_cc": ["-mavx2", "-mfma"],
          "xcode_settings": { "OTHER_CPLUSPLUSFLAGS": ["-ffp-contract=fast", "-mavx2", "-mfma"] }
        },
        {
          "target_name": "bge_avx512",
          "type": "static_library",
          "sources": ["<!@(node -p \"require('./native/sources.json').avx512.join(' ')\")"],
          "cflags_cc": ["-mavx2", "-mfma", "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl"],
          "xcode_settings": {
            "OTHER_CPLUSPLUSFLAGS": ["-ffp-contract=fast", "-mavx2", "-mfma", "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl"]
          }
        },
        {
          "target_name": "bge_avx512vnni",
          "type": "static_library",
          "sources": ["<!@(node -p \"require('./native/sources.json').avx512vnni.join(' ')\")"],
          "cflags_cc": ["-mavx2", "-mfma", "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mavx512vnni"],
          "xcode_settings": {
            "OTHER_CPLUSPLUSFLAGS": ["-ffp-contract=fast", "-mavx2", "-mfma", "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mavx512vnni"]
          }
        },
        {
          "target_name": "bge_avx512bf16",
          "type": "static_library",
          "sources": ["<!@(node -p \"require('./native/sources.json').avx512bf16.join(' ')\")"],
          "cflags_cc": ["-mavx2", "-mfma", "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mavx512bf16"],
          "xcode_settings": {
            "OTHER_CPLUSPLUSFLAGS": ["-ffp-contract=fast", "-mavx2", "-mfma", "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mavx512bf16"]
          }
        }
      ]
    }]
  ]
}
