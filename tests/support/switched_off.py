"""How each hardening is switched off: edits of a copy of the endpoint, by the hardening's name."""

from tests.support.edited_endpoint import Edit

_UNAVAILABLE = "raise ContractError(ErrorCode.SANDBOX_UNAVAILABLE, message) from None"
_STREAM, _WEB, _FLEET, _SANDBOX = "stream.py", "web.py", "sandboxes/fleet.py", "sandboxes/project_sandbox.py"
_CLAUDE, _COMMAND, _VERDICT = "actions/claude_action.py", "actions/claude_command.py", "actions/claude_verdict.py"

OFF: dict[str, tuple[Edit, ...]] = {
    "headers-at-once": (
        (
            _STREAM,
            'await send({"type": "http.response.start"',
            'await spool.reached(3, timeout_s=300)\n        await send({"type": "http.response.start"',
        ),
    ),
    "no-buffering-header": (("contract/sse.py", '"X-Accel-Buffering": "no",', ""),),
    "cache-header": (("contract/sse.py", '"Cache-Control": "no-cache, no-transform",', ""),),
    "heartbeat": ((_STREAM, "if whole:", "if False:"),),
    "output-by-time": (("sandboxes/output_chunks.py", "max(paused_until, held_since + hold_s)", "held_since + 3600"),),
    "bounded-events": (
        ("contract/caps.py", "MAX_STREAM_TEXT_BYTES = 64 * 1024", "MAX_STREAM_TEXT_BYTES = 1024 ** 3"),
        ("sandboxes/output_chunks.py", "MAX_HELD_BYTES = 64 * 1024", "MAX_HELD_BYTES = 1024 * 1024"),
    ),
    "unbuffered-jobs": (
        ("actions/python_action.py", '["python3", "-u", f"{WORKSPACE}', '["python3", f"{WORKSPACE}'),
        ("actions/python_action.py", "exec python3 -u", "exec python3"),
        (_SANDBOX, '"PYTHONUNBUFFERED": "1",', ""),
    ),
    "numbered-events": ((_STREAM, "spool.read(self._after,", "spool.read(0,"),),
    "run-without-connection": (("runs/readers.py", "self._wait(self._grace_s)", "self._on_alone()"),),
    "cancel-without-readers": (("runs/readers.py", "        self._on_alone()", "        pass"),),
    "events-outlive-the-container": (
        (
            "runs/run_service.py",
            "found = run.record if run is not None else await _platform_answer(self._records.get(run_id))",
            "found = run.record if run is not None else None",
        ),
    ),
    "runs-end-before-their-container": (("runs/supervisor.py", "timeout=timeouts.drain_s)", "timeout=0)"),),
    "terminated-on-every-path": (
        (
            _FLEET,
            "            if not kept:\n                await finish(asyncio.ensure_future(held.terminate()))",
            "            pass",
        ),
    ),
    "sandbox-hears-its-run": (
        (_FLEET, 'timeout "$patience" head -c 1', "head -c 1"),
        ("runs/sweeper.py", "await self._sweep_runs(look)", "0"),
        ("runs/sweeper.py", "await self._sweep_sandboxes(look)", "0"),
    ),
    "one-key-one-run": ((_WEB, 'return f"given/{given}"', 'return f"given/{given}/{secrets.token_hex(8)}"'),),
    "exit-code-seen": (
        (_SANDBOX, "raise await self._lost(_first(others or errors)) from None", "return 0"),
        (_SANDBOX, "raise await self._lost(error) from None", "return 0"),
        (_SANDBOX, "if code >= _SIGNALLED and not await self._alive():", "if False:"),
    ),
    "output-read-on": (("sandboxes/outages.py", "now - self._since >= self._within_s or", "True or"),),
    "memory-told-apart": ((_SANDBOX, "if ended_as in _OUT_OF_MEMORY:", "if False:"),),
    "own-clock": (
        (
            _SANDBOX,
            "timed_out = code == -1 or (code in (124, 137) and late)",
            "timed_out = False",
        ),
    ),
    "another-sandbox": (("runs/run_execution.py", "_MORE_SANDBOXES = 1", "_MORE_SANDBOXES = 0"),),
    "creation-told": (
        (
            _FLEET,
            f'message = f"no sandbox could be started: {{self._why_not_created(error)}}"\n            {_UNAVAILABLE}',
            "raise",
        ),
    ),
    "commit-before-the-end": (("runs/run_execution.py", "await held.commit()", "pass"),),
    "end-told-last": (
        ("runs/run_execution.py", "await held.commit()", "pass"),
        (
            _FLEET,
            "            if not kept:\n                await finish(asyncio.ensure_future(held.terminate()))",
            '            globals().setdefault("_loose", []).append(asyncio.ensure_future(held.terminate()))',
        ),
    ),
    "read-back": (("sandboxes/read_back.py", "before, missing = missing, differing", "before, missing = missing, {}"),),
    "one-writer": (
        ("runs/leases.py", "if last is not None and not last.released and not await self._is_over(last):", "if False:"),
    ),
    "git-locks-cleared": ((_SANDBOX, '|| python3 -I -c "$1" {WORKSPACE};', "|| :;"),),
    "git-settings-off": (
        ("actions/git_command.py", " GIT_COMMON_DIR={_COMMON} GIT_WORK_TREE", " GIT_WORK_TREE"),
        ("actions/git_command.py", '"-c", "core.fsmonitor=false", ', ""),
    ),
    "limits-in-order": (
        ("endpoint_settings.py", "if self.process_s + self.commit_s >= self.sandbox_s:", "if False:"),
        ("endpoint_settings.py", "if chain[inner] >= chain[outer]:", "if False:"),
    ),
    "limit-of-a-request": (
        (
            "contract/fields.py",
            "timeout_s: Annotated[int, Field(ge=1, le=MAX_TIMEOUT_S)]",
            "timeout_s: Annotated[int, Field(ge=1)]",
        ),
        ("runs/run_service.py", "request.timeout_s > limit:", "False:"),
    ),
    "ids-checked": (("contract/fields.py", "if not _UUID.fullmatch(value):", "if False:"),),
    "tenants-apart": (("runs/run_service.py", "(user_id is not None and found.user_id != user_id)", "False"),),
    "no-network": (
        (_FLEET, "block_network=reach is None,", ""),
        (_FLEET, "outbound_domain_allowlist=None if reach is None else [reach],", ""),
        (_FLEET, "outbound_cidr_allowlist=None if reach is None else [],", ""),
    ),
    "no-secret-inside": (
        (
            _SANDBOX,
            "env={**_ENV, **(env or {})},",
            'env={**_ENV, **(env or {}), "WORKBENCH_SECRET": __import__("os").environ["WORKBENCH_SECRET"]},',
        ),
    ),
    "secret-required": (
        ("endpoint_settings.py", "if not self.secret:", "if False:"),
        (
            "endpoint_settings.py",
            "if value is None or not value.get_secret_value():\n            return None",
            "if True:\n            return value",
        ),
        (
            "endpoint_settings.py",
            "for secret in (self.secret, self.secret_previous) if secret]",
            "for secret in (self.secret, self.secret_previous) if secret is not None]",
        ),
    ),
    "secret-compared": (
        (
            "endpoint_settings.py",
            "return any([hmac.compare_digest(given, one) for one in known])",
            "return any([given for one in known])",
        ),
    ),
    "words-taken-back": (
        (_CLAUDE, "message_id=item.message_id or None, replaces=item.replaces)", "message_id=item.message_id or None)"),
        (_CLAUDE, "message=item.value, replaces=item.replaces,", "message=item.value,"),
    ),
    "results-judged": ((_VERDICT, "if self._failed is not None:", "if False:"),),
    "model-errors-told-apart": (
        (_VERDICT, "if isinstance(status, int) and status in _BY_STATUS:", "if False:"),
        (_VERDICT, 'if result.get("stop_reason") == "refusal":', "if False:"),
        (_VERDICT, 'if result.get("terminal_reason") == "prompt_too_long":', "if False:"),
    ),
    "repetitions-told": ((_CLAUDE, "self._retried(retry)", "pass"),),
    "repetitions-counted": ((_COMMAND, "max_retries: int = 2", "max_retries: int = 3"),),
    "session-told": ((_CLAUDE, "session_id=verdict.session_id)", "session_id=None)"),),
    "waits-for-the-model-bounded": (
        (
            "actions/claude_command.py",
            '"API_TIMEOUT_MS": str(int(self.headers_s * 1000))',
            '"API_TIMEOUT_MS": "600000"',
        ),
        ("actions/claude_command.py", '"CLAUDE_ENABLE_BYTE_WATCHDOG": "1"', '"CLAUDE_ENABLE_BYTE_WATCHDOG": "0"'),
        ("model_gateway/upstream.py", "asyncio.timeout(self._settings.headers_s)", "asyncio.timeout(600)"),
        ("model_gateway/upstream.py", "httpx.Timeout(settings.headers_s,", "httpx.Timeout(600,"),
        ("model_gateway/upstream.py", "last_life() + idle_s - clock()", "last_life() + 600 - clock()"),
    ),
    "broken-calls-end-the-run": ((_VERDICT, "_UNPARSED in given and self.failure is None", "False"),),
    "denials-seen": ((_VERDICT, "if self._denied:", "if False:"),),
    "stdin-closed": (  # of what is not the CLI, which would not work without it
        (_SANDBOX, "process.stdin.write_eof()", '"PYTHONPATH" in (env or {}) or process.stdin.write_eof()'),
    ),
    "overlap-of-secrets": (
        ("endpoint_settings.py", "(self.secret, self.secret_previous) if secret]", "(self.secret,) if secret]"),
    ),
}
