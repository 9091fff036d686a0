# A machine with a GPU to try things on. No port is open and no key pair exists: Session Manager is the only way in.

locals {
  # 5 % of one hour's CPU: a training process alone keeps one core of a g6.xlarge busy, which is 25 %.
  idle_cpu_percent = 5
}

resource "aws_security_group" "box" {
  name        = "${var.name}-devbox"
  description = "Development box: nothing comes in, HTTPS goes out"
  vpc_id      = var.vpc_id
  tags        = { Name = "${var.name}-devbox" }
}

resource "aws_vpc_security_group_egress_rule" "https" {
  security_group_id = aws_security_group.box.id
  description       = "Session Manager, S3 and packages over HTTPS"
  cidr_ipv4         = "0.0.0.0/0"
  ip_protocol       = "tcp"
  from_port         = 443
  to_port           = 443
}

resource "aws_launch_template" "box" {
  name                   = "${var.name}-devbox"
  update_default_version = true
  image_id               = "resolve:ssm:${var.image_parameter}"
  instance_type          = var.instance_type
  ebs_optimized          = true

  # The box stops itself by `shutdown` too, and is never deleted by that.
  instance_initiated_shutdown_behavior = "stop"

  block_device_mappings {
    device_name = "/dev/sda1"
    ebs {
      volume_type           = "gp3"
      volume_size           = var.disk_gib
      encrypted             = true
      kms_key_id            = var.kms_key_arn
      delete_on_termination = true
    }
  }
  metadata_options {
    http_endpoint               = "enabled"
    http_tokens                 = "required"
    http_put_response_hop_limit = 1
  }
  monitoring {
    enabled = true
  }
}

resource "aws_instance" "box" {
  # checkov:skip=CKV_AWS_8:the disk is encrypted with the platform's key by the launch template
  # checkov:skip=CKV_AWS_79:tokens are required by the launch template
  # checkov:skip=CKV_AWS_126:detailed monitoring is on in the launch template
  # checkov:skip=CKV_AWS_135:EBS optimisation is on in the launch template
  subnet_id              = var.subnet_id
  vpc_security_group_ids = [aws_security_group.box.id]
  iam_instance_profile   = aws_iam_instance_profile.box.name

  associate_public_ip_address = false
  launch_template {
    id      = aws_launch_template.box.id
    version = "$Default"
  }
  tags        = { Name = "${var.name}-devbox" }
  volume_tags = { Name = "${var.name}-devbox", platform = var.name }
  lifecycle {
    # A newer image would throw away what somebody has on the disk.
    ignore_changes = [ami, launch_template]
  }
}
