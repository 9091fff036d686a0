# What the ECS agent of a machine may do. Images are pulled and secrets read by the task's execution role, not by this one.

resource "aws_iam_role" "instance" {
  name                 = "${var.platform.name}-gpu-instance"
  description          = "GPU machines of ${var.platform.name}: the ECS agent."
  permissions_boundary = var.platform.permissions_boundary_arn
  assume_role_policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect    = "Allow"
      Action    = "sts:AssumeRole"
      Principal = { Service = "ec2.amazonaws.com" }
    }]
  })
}

resource "aws_iam_role_policy" "agent" {
  name = "ecs-agent"
  role = aws_iam_role.instance.id
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [
      {
        Sid      = "FindTheEndpoint" # the action knows no resources
        Effect   = "Allow"
        Action   = "ecs:DiscoverPollEndpoint"
        Resource = "*"
      },
      {
        Sid    = "JoinAndReport"
        Effect = "Allow"
        Action = [
          "ecs:DeregisterContainerInstance", "ecs:RegisterContainerInstance", "ecs:SubmitAttachmentStateChanges",
          "ecs:SubmitContainerStateChange", "ecs:SubmitTaskStateChange",
        ]
        Resource = local.cluster_arn
      },
      {
        Sid      = "Listen"
        Effect   = "Allow"
        Action   = ["ecs:Poll", "ecs:StartTelemetrySession", "ecs:UpdateContainerInstancesState"]
        Resource = "arn:aws:ecs:${var.platform.region}:${var.platform.account_id}:container-instance/${var.platform.name}/*"
      },
    ]
  })
}

resource "aws_iam_instance_profile" "instance" {
  name = "${var.platform.name}-gpu-instance"
  role = aws_iam_role.instance.name
}

locals {
  cluster_arn = "arn:aws:ecs:${var.platform.region}:${var.platform.account_id}:cluster/${var.platform.name}"
}
