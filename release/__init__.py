"""`make release`: everything that install.sh needs, in one tarball, the same bytes each time.

`wheels` has the dependencies, held to the hashes of requirements.txt, and makes our own wheel;
`pins` writes that file anew; `tarball` says what goes where. `smoke` is a part of the tarball: what
install.sh asks the new release before it is switched to.
"""
