import { defineConfig } from 'vitest/config'

// Native threads share two cores with the test runner: one file at a time keeps the suite fast and its timeouts honest.
export default defineConfig({
  test: { include: ['test/**/*.test.ts'], fileParallelism: false, testTimeout: 120_000, hookTimeout: 120_000 },
})
