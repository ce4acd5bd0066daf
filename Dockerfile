# docker build -t sedcast .
# docker run --rm -v "$PWD":/data sedcast fit --mags u=18.95,g=17.67,r=16.94,i=16.53,z=16.26 --errors 0.03 --redshift 0.09
FROM python:3.11-slim

# The compiler builds the fast sampler and is not kept; sedcast works without it, at half the speed.
COPY . /src
RUN apt-get update \
    && apt-get install -y --no-install-recommends gcc libc6-dev \
    && pip install --no-cache-dir /src \
    && apt-get purge -y --auto-remove gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/* /src

# Files that the commands read and write are those of the folder mounted at /data.
ENV MPLBACKEND=Agg MPLCONFIGDIR=/tmp/matplotlib
WORKDIR /data
ENTRYPOINT ["sedcast"]
CMD ["--help"]
