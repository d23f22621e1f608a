"""One erasure at the authority's door: who asks, what for, the network's answer, the record, the answer.

The record of a restored face is on the disk before the answer leaves. So there may be a record of an answer
that never arrived, never the other way round.
"""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NoReturn

from ..errors import AuditError, CertificateError, ServingError
from .audit import AuditLog, Entry
from .authority_request import Contract, check_answer, check_request
from .clients import ClientIdentity, ClientPolicy, identify
from .grpc_checks import RefusedError

if TYPE_CHECKING:
    import grpc

logger = logging.getLogger(__name__)


def client_of(context: grpc.ServicerContext, policy: ClientPolicy) -> tuple[ClientIdentity, str]:
    """Who asks, and why they are refused, empty if they are not.

    Raises:
        RefusedError: UNAUTHENTICATED, the connection carries no certificate that can be read.
    """
    certificates = context.auth_context().get("x509_pem_cert", [])
    try:
        client = identify(bytes(certificates[0]) if certificates else b"")
    except CertificateError as error:
        raise RefusedError("UNAUTHENTICATED", str(error)) from error
    return client, policy.refusal(client, datetime.now(UTC))


@dataclass
class _Progress:
    """What is known of a request so far, for its record."""

    client: ClientIdentity
    faces: int = 0
    input_sha256: str = ""
    output_sha256: str = ""
    model_version: str = ""
    model_sha256: str = ""
    forwarded: bool = False


class Restoring:
    """Answers ``ModelInfer``.

    Args:
        contract: the network.
        upstream: Triton's ``ModelInfer``, as a gRPC callable.
        sha256_of: hex SHA-256 of a version of the network, unsealed; raises ServingError for an unknown one.
        log: where every request is recorded.
        policy: whose requests are answered.
        max_concurrent: requests at once; more are refused as busy.
        timeout_s: for one request, if its client's deadline is not sooner.
    """

    def __init__(
        self,
        *,
        contract: Contract,
        upstream: grpc.UnaryUnaryMultiCallable,
        sha256_of: Callable[[str], str],
        log: AuditLog,
        policy: ClientPolicy,
        max_concurrent: int,
        timeout_s: float,
    ) -> None:
        self._contract = contract
        self._upstream = upstream
        self._sha256_of = sha256_of
        self._log = log
        self._policy = policy
        self._slots = threading.BoundedSemaphore(max_concurrent)
        self._timeout_s = timeout_s

    def __call__(self, request: Any, context: grpc.ServicerContext) -> Any:
        """Handles one request; what is refused or fails becomes a gRPC status."""
        begin = time.perf_counter()
        try:
            client, refusal = client_of(context, self._policy)
        except RefusedError as error:
            _abort(context, error)
        progress = _Progress(client)
        try:
            if refusal:
                raise RefusedError("PERMISSION_DENIED", refusal)
            if not self._slots.acquire(blocking=False):
                raise RefusedError("RESOURCE_EXHAUSTED", "busy; try again")
            try:
                answer = self._restore(request, context, progress)
            finally:
                self._slots.release()
        except RefusedError as error:
            self._record_refusal(progress, str(error))
            logger.info("not restored: %s", error.code)
            _abort(context, error)
        except Exception:
            self._record_refusal(progress, "an error in the door")
            raise
        try:
            self._record(progress, "restored", "")
        except AuditError as error:
            logger.error("%s", error)
            _abort(context, RefusedError("UNAVAILABLE", "the request cannot be recorded, so it is refused"))
        logger.info("restored %d faces in %.1f ms", progress.faces, (time.perf_counter() - begin) * 1e3)
        return answer

    def _restore(self, request: Any, context: grpc.ServicerContext, progress: _Progress) -> Any:
        checked = check_request(self._contract, request)
        progress.faces = checked.inputs[0].shape[0]
        progress.input_sha256 = hashlib.sha256(checked.raw_input_contents[0]).hexdigest()
        progress.forwarded = True
        answer = self._ask(checked, context)
        progress.model_version = answer.model_version
        try:
            progress.model_sha256 = self._sha256_of(answer.model_version)
        except ServingError as error:
            raise RefusedError("INTERNAL", "a version answered that this server did not load") from error
        restored = check_answer(self._contract, answer, progress.faces)
        progress.output_sha256 = hashlib.sha256(restored).hexdigest()
        if not context.is_active():
            raise RefusedError("CANCELLED", "the client was gone before the answer could leave")
        return answer

    def _ask(self, request: Any, context: grpc.ServicerContext) -> Any:
        import grpc

        call = self._upstream.future(request, timeout=min(context.time_remaining(), self._timeout_s))
        if not context.add_callback(call.cancel):
            call.cancel()
        try:
            return call.result()
        except grpc.FutureCancelledError as error:
            raise RefusedError("CANCELLED", "the client was gone before the network had answered") from error
        except grpc.RpcError as error:
            code = call.code().name
            if code == "CANCELLED" and not context.is_active():
                raise RefusedError(code, "the client was gone before the network had answered") from error
            # The details may name what is inside; they are for who runs the server.
            logger.warning("Triton did not answer: %s %s", code, call.details())
            raise RefusedError(code, f"the network did not answer: {code}") from error

    def _record(self, progress: _Progress, outcome: Any, reason: str) -> None:
        self._log.append(
            Entry(
                outcome=outcome,
                reason=reason,
                client=progress.client.subject,
                certificate_sha256=progress.client.sha256,
                serial=progress.client.serial,
                model=self._contract.model,
                model_sha256=progress.model_sha256,
                model_version=progress.model_version,
                faces=progress.faces,
                input_sha256=progress.input_sha256,
                output_sha256=progress.output_sha256,
            )
        )

    def _record_refusal(self, progress: _Progress, reason: str) -> None:
        """Nothing was released, so the refusal stands even if it cannot be recorded."""
        try:
            self._record(progress, "failed" if progress.forwarded else "refused", reason)
        except AuditError as error:
            logger.error("%s", error)


def _abort(context: grpc.ServicerContext, error: RefusedError) -> NoReturn:
    import grpc

    context.abort(grpc.StatusCode[error.code], str(error))
    raise AssertionError("abort returned")
