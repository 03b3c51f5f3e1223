"""Images are pulled from registries by the OCI distribution protocol, and their layers unpacked for an overlay.

For who builds images:

- `references.ImageReference.parse(text)`: a name by Docker's rules. (`FROM scratch` is none: ask before.)
- `await secrets.credentials_of(kind, values, reference)`: what the SDK's `secret=` says, as `credentials.Credentials`;
  for AWS it asks ECR for a password.
- `blobs.BlobStore(root, require_room=…)`: one for each state directory, made once; a pull fills it. `kept()` lists its
  blobs, `remove(digest)` removes one: after unpacking, or when its layer turns out to be damaged on the disk.
- `await pulling.pull(reference, store=…, credentials=…, mirrors=…, platform=pulling.this_platform(), progress=…,
  timeout_s=…)` answers a `PulledImage`: `.digest`, `.config` (an `image_config.ImageConfig`), `.layers` (each with
  `.digest`, `.diff_id`, `.media_type`, `.size` and the `.path` of its verified, still compressed blob, lowest layer
  first). `progress` takes lines for the build's log.
- `unpacking`: for a child process that is root of the sandboxes' user namespace. Import it (it stands alone), open the
  blob and, for the attributes of directories that an archive leaves out, the merged layers below; enter the namespace;
  chroot into the layer's empty directory, chdir to it; call `unpack_in_child(blob_fd, diff_id, report=fd, below=fd)`.
  The parent reads the report to its end and passes it to `read_report`; it ends the child at its own deadline, removes
  the directory after any failure, and synchronises it to the disk after success.

Everything that a pull raises is an `errors.RegistryError` (a CloudError) or what `require_room` raises; its message
says what to do, and has no secret. Unpacking raises `LayerRefusedError` (the layer's fault) and `UnpackFailedError`
(this machine's, with an errno).

`mirrors` has an address (`https://mirror.example.com/prefix`) for a registry's name (`docker.io`). A mirror takes the
registry's place: the registry itself is not asked, and its credentials are not sent to the mirror. Plain HTTP is spoken
with registries on loopback alone. Credentials go to the registry and to the token server that it names over https, as
Docker Hub and others need it; to nobody else.
"""
