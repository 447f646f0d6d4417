"""The HTTP application: routes, and the one shape of errors."""

from starlette.exceptions import HTTPException

from safelight.api import errors
from safelight.api.body import BodyError
from safelight.api.console.routes import console_routes
from safelight.api.docs import docs_routes
from safelight.api.estimate import estimate_routes
from safelight.api.files import file_routes
from safelight.api.images import image_routes
from safelight.api.service import service_routes
from safelight.api.services import Api, Services
from safelight.domain.errors import PolicyRefusal, RequestError, StorageError


def create_app(services: Services) -> Api:
    """Make the ASGI application; whoever starts the services also stops them."""
    app = Api(
        routes=[
            *image_routes(),
            *file_routes(),
            *service_routes(),
            *estimate_routes(),
            *docs_routes(),
            *console_routes(),
        ],
        exception_handlers={
            HTTPException: errors.on_http_exception,
            RequestError: errors.on_request_error,
            PolicyRefusal: errors.on_policy_refusal,
            StorageError: errors.on_storage_error,
            BodyError: errors.on_body_error,
            Exception: errors.on_crash,
        },
    )
    app.router.redirect_slashes = False
    app.services = services
    return app
